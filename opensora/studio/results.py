"""Finds all finished samples in the studio's output folder, by the ledgers and sidecars of its folders."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adacache.calibration.quality import psnr
from opensora.cli.ledger import MANIFEST, read_manifest
from opensora.config.schema import section_class
from opensora.datasets.video_io import IMAGE_SUFFIX, read_video
from opensora.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One finished video or image.

    Attributes:
        id: path of the file below the output folder, without suffix.
        metadata: metadata in its sidecar.
        records: records of its trace; empty without a cache.
        command: command of the run that made it.
    """

    id: str
    video: Path
    metadata: dict[str, Any]
    records: list[dict[str, Any]]
    finished: str
    command: list[str]

    @property
    def prompt(self) -> str:
        """The prompt as the user gave it."""
        return str(self.metadata["prompt"])

    @property
    def seed(self) -> int:
        """Seed of the noise."""
        return int(self.metadata["seed"])

    @property
    def seconds(self) -> float:
        """Seconds that sampling took, from text to pixels."""
        return float(self.metadata["seconds"])

    @property
    def sidecar(self) -> Path:
        """The JSON file that describes the sample."""
        return self.video.with_suffix(".json")

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels."""
        config = self.metadata["config"]
        return int(config["num_frames"]), int(config["height"]), int(config["width"])

    @property
    def fps(self) -> int:
        """Frames per second of the file."""
        return int(self.metadata["config"]["save_fps"])

    @property
    def is_image(self) -> bool:
        """Whether it is a single frame."""
        return self.video.suffix == IMAGE_SUFFIX

    @property
    def is_draft(self) -> bool:
        """Whether it is one of several drafts to choose from."""
        return bool(self.metadata["config"].get("draft"))

    @property
    def risk(self) -> float | None:
        """For a draft, a weak hint of how much reuse has changed it; else None."""
        risk = self.metadata.get("risk")
        return None if risk is None else float(risk)

    @property
    def computed(self) -> list[bool]:
        """Whether each step was computed."""
        if self.records:
            return [bool(record["computed"]) for record in self.records]
        scheduler = self.metadata["config"]["scheduler"]
        return [True] * section_class("scheduler", scheduler)(**scheduler).num_model_calls

    @property
    def scene(self) -> tuple[Any, ...]:
        """What results must have in common to be compared frame by frame."""
        config = self.metadata["config"]
        references = [reference["sha256"] for reference in self.metadata.get("references", [])]
        conditions = (config["model"]["from_pretrained"], config["scheduler"]["cfg_scale"], config.get("loop", 1))
        conditions += tuple(config.get(name) for name in ("negative_prompt", "aes", "flow", "camera_motion"))
        return self.prompt, self.seed, *self.size, *conditions, self.metadata.get("mask_strategy", ""), *references

    @property
    def variant(self) -> str:
        """How the computed steps were chosen, in a few words."""
        config = self.metadata["config"]
        cache = config.get("cache")
        if not cache:
            return "Every step"
        if self.is_draft or config.get("final"):
            return "Draft" if self.is_draft else "Final"
        if "codebook" in cache:
            return "AdaCache + MoReg" if cache.get("moreg") else "AdaCache"
        return "Calibrated" if config.get("calibration") else "Listed steps"

    @property
    def label(self) -> str:
        """Text that distinguishes it from other samples of its scene."""
        return f"{self.variant}, {sum(self.computed)} of {len(self.computed)}"


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
                content = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
                metadata = content["metadata"]
                video = folder / Path(metadata["video"]).name
                command = manifest["runs"][entry.get("run", 0)].get("command", [])
                id = str((folder / stem).relative_to(self.root))
                sample = Sample(id, video, metadata, content.get("records", []), entry["finished"] or "", command)
                _ = (
                    sample.scene,
                    sample.computed,
                    sample.variant,
                    sample.seconds,
                    sample.fps,
                    sample.risk,
                )  # fails if wrong
            except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                logger.warning("WARNING %s of %s cannot be read: %s", stem, folder, error)
                continue
            if video.is_file():
                yield sample


def scenes(samples: Sequence[Sample]) -> dict[tuple[Any, ...], list[Sample]]:
    """Group samples by scene, in the given order; in a scene, the sample with the most computed steps comes first."""
    groups: dict[tuple[Any, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.scene, []).append(sample)
    return {scene: sorted(group, key=lambda sample: -sum(sample.computed)) for scene, group in groups.items()}


def _stamp(folder: Path) -> list[tuple[int, int]]:
    """Return times and sizes of a ledger's files, which change whenever the ledger does."""
    stats = []
    for name in (MANIFEST, MANIFEST.replace(".json", ".journal")):
        try:
            stat = (folder / name).stat()
            stats.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            stats.append((0, 0))
    return stats
