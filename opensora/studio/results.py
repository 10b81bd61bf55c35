"""Finds all finished samples in the studio's output folder, by the ledgers and sidecars of its folders."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from adacache.calibration.calibration import Calibration
from adacache.calibration.quality import psnr
from adacache.calibration.target import TARGETS
from adacache.policies.registry import POLICIES, config_class
from opensora.cli.ledger import JOURNAL, MANIFEST, read_manifest
from opensora.conditioning.references import opened_reference
from opensora.config.schema import section_class
from opensora.config.target import find_calibration
from opensora.datasets.video_io import IMAGE_SUFFIX, read_video
from opensora.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One finished video or image.

    Attributes:
        id: path of the file below the output folder, without suffix.
        seconds: from text to pixels.
        size: frames, height and width in pixels.
        computed: whether each step was computed, those of all clips that continue each other.
        records: records of its traces; empty without a cache.
        scene: what results must have in common to be compared frame by frame.
        variant: how the computed steps were chosen, in a few words.
        metadata: metadata in its sidecar.
        command: arguments of the run that made it.
    """

    id: str
    video: Path
    prompt: str
    seed: int
    seconds: float
    size: tuple[int, int, int]
    fps: int
    computed: list[bool]
    records: list[dict[str, Any]]
    scene: tuple[Any, ...]
    variant: str
    metadata: dict[str, Any]
    finished: str
    command: list[str]

    @property
    def sidecar(self) -> Path:
        """The JSON file that describes the sample."""
        return self.video.with_suffix(".json")

    @property
    def is_image(self) -> bool:
        """Whether it is a single frame."""
        return self.video.suffix == IMAGE_SUFFIX

    @property
    def is_draft(self) -> bool:
        """Whether it is one of several drafts to choose from."""
        return bool(self.metadata["config"].get("draft"))

    @property
    def num_computed(self) -> float:
        """How many steps were computed; those of a policy that reuses branches count by their share."""
        shares = [record.get("computed_share") for record in self.records] or [None] * len(self.computed)
        return sum(one if share is None else share for one, share in zip(self.computed, shares, strict=True))

    @property
    def steps(self) -> str:
        """Computed and all steps, as text."""
        return f"{self.num_computed:.3g} of {len(self.computed)}"

    @property
    def label(self) -> str:
        """Text that distinguishes it from other samples of its scene."""
        return f"{self.variant}, {self.steps}"


@dataclass
class Results:
    """Reads the samples of a folder and of all folders below it; unchanged folders are not read again.

    Attributes:
        root: the output folder, an absolute path.
    """

    root: Path
    _ledgers: dict[Path, tuple[Any, list[Sample]]] = field(default_factory=dict)
    _measured: dict[Any, tuple[list[float], float]] = field(default_factory=dict)

    def all(self) -> list[Sample]:
        """Return all finished samples, the newest first."""
        ledgers = {}
        for folder in self._folders():
            stamp = _stamp(folder)
            known = self._ledgers.get(folder)
            ledgers[folder] = known if known and known[0] == stamp else (stamp, list(self._read(folder)))
        self._ledgers = ledgers
        found = [sample for _, samples in ledgers.values() for sample in samples]
        return sorted(found, key=lambda sample: sample.finished, reverse=True)

    def get(self, id: str) -> Sample:
        """Return the sample with this id.

        Raises:
            ConfigError: there is none, or no longer.
        """
        for sample in self.all():
            if sample.id == id:
                return sample
        raise ConfigError(f"'{id}' is not among the results any more")

    def psnr(self, sample: Sample, reference: Sample) -> tuple[list[float], float]:
        """Return the PSNR in dB of each frame and of the whole video, between the pixels in two samples' files.

        Raises:
            OSError, ValueError: a file cannot be read, or the two have different sizes.
        """
        key = tuple((one.video, one.video.stat().st_mtime_ns) for one in (sample, reference))
        if key not in self._measured:
            frames, others = (read_video(one.video)[0] for one in (sample, reference))
            if frames.shape != others.shape:
                raise ValueError(f"{sample.video.name} and {reference.video.name} have different sizes")
            by_frame = [psnr(frame, other) for frame, other in zip(frames, others, strict=True)]
            self._measured[key] = by_frame, psnr(frames, others)
        return self._measured[key]

    def _folders(self) -> Iterator[Path]:
        for folder, names, files in os.walk(self.root):
            names[:] = sorted(name for name in names if not name.startswith("."))
            if MANIFEST in files:
                yield Path(folder)

    def _read(self, folder: Path) -> Iterator[Sample]:
        try:
            manifest = read_manifest(folder)
            entries = [(stem, entry) for stem, entry in manifest["samples"].items() if entry["status"] == "done"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("WARNING %s cannot be read: %s", folder / MANIFEST, error)
            return
        for stem, entry in entries:
            try:
                command = manifest["runs"][entry.get("run", 0)].get("command", [])
                sample = _sample(self.root, folder / f"{stem}.json", entry["finished"] or "", command)
            except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                logger.warning("WARNING %s of %s cannot be read: %s", stem, folder, error)
                continue
            if sample.video.is_file():
                yield sample


def _sample(root: Path, sidecar: Path, finished: str, command: list[str]) -> Sample:
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    metadata, records = content["metadata"], content.get("records", [])
    config = metadata["config"]
    loops = int(config.get("loop", 1))
    for loop in range(1, loops if records else 1):
        records += json.loads(sidecar.with_suffix(f".loop{loop}.json").read_text(encoding="utf-8"))["records"]
    prompt, seed = str(metadata["prompt"]), int(metadata["seed"])
    size = int(config["num_frames"]), int(config["height"]), int(config["width"])
    scheduler = section_class("scheduler", config["scheduler"])(**config["scheduler"])
    computed = [bool(record["computed"]) for record in records] or [True] * (scheduler.num_model_calls * loops)
    video = sidecar.with_name(Path(metadata["video"]).name)
    text = metadata.get("refined") or prompt  # which a video that is made again has as its prompt
    scene = (text, seed, *size, scheduler.num_model_calls)
    scene += config["model"]["from_pretrained"], config["scheduler"]["cfg_scale"]
    scene += tuple(config.get(name) for name in ("loop", "negative_prompt", "aes", "flow", "camera_motion"))
    scene += (metadata.get("mask_strategy", ""), *(item["sha256"] for item in metadata.get("references", [])))
    if loops > 1 and video.is_file():
        with opened_reference(video) as source:
            size = source.num_frames, *size[1:]
    return Sample(
        id=str(sidecar.with_suffix("").relative_to(root)),
        video=video,
        prompt=prompt,
        seed=seed,
        seconds=float(metadata["seconds"]),
        size=size,
        fps=int(config["save_fps"]),
        computed=computed,
        records=records,
        scene=scene,
        variant=_variant(config),
        metadata=metadata,
        finished=finished,
        command=command,
    )


def label_of_aim(aim: str) -> str:
    """Return what results of a calibration with this aim are called."""
    return "Calibrated" if aim == "repeat" else "Toward the exact solution"


def _variant(config: dict[str, Any]) -> str:
    cache = config.get("cache")
    if not cache:
        return "Every step"
    if config.get("draft") or config.get("final"):
        return "Draft" if config.get("draft") else "Final"
    if "codebook" in cache:
        return "AdaCache + MoReg" if cache.get("moreg") else "AdaCache"
    policy = cache.get("policy")
    if any(config.get(target) is not None for target in TARGETS):
        return label_of_aim(_aim(str(find_calibration(config["calibration"], config.get("path", "")))))
    if policy == "multistep":  # a video that was made again
        return label_of_aim("repeat")
    return config_class(policy).label if policy in POLICIES and policy != "static" else "Listed steps"


@cache
def _aim(calibration: str) -> str:
    try:
        return Calibration.load(calibration).aim
    except (OSError, ValueError):  # it may be gone
        return "repeat"


def scenes(samples: Sequence[Sample]) -> dict[tuple[Any, ...], list[Sample]]:
    """Group samples by scene, in the given order; in a scene, the sample with the most computed steps comes first."""
    groups: dict[tuple[Any, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.scene, []).append(sample)
    return {scene: sorted(group, key=lambda sample: -sample.num_computed) for scene, group in groups.items()}


def further_steps(group: Sequence[Sample]) -> tuple[bool, int | None, int]:
    """Return whether a scene has a result with every step, the next number of steps to try, if any, and all steps.

    Steps are those of one clip, as they are asked for, also where clips continue each other.
    """
    loops = int(group[0].metadata["config"].get("loop", 1))
    counts, total = {sample.num_computed / loops for sample in group}, len(group[0].computed) // loops
    best = max((count for count in counts if count < total), default=0)
    worth_trying = sorted({round(share * total) for share in (0.27, 0.4, 0.5, 0.67, 0.8)})
    return total in counts, next((count for count in worth_trying if count > best), None), total


def _stamp(folder: Path) -> list[tuple[int, int]]:
    """Return times and sizes of a ledger's files, which change whenever the ledger does."""
    stats = []
    for name in (MANIFEST, JOURNAL):
        try:
            stat = (folder / name).stat()
            stats.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            stats.append((0, 0))
    return stats
