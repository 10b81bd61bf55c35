"""What a user can choose (models with weights on this machine, compute, sizes), and the command that it amounts to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import REFERENCES
from adacache.calibration.target import TARGETS, Target
from adacache.policies.adacache import AdaCacheConfig
from opensora.cli.arguments import parse_arguments
from opensora.cli.command import prepare
from opensora.config.entries import find_config
from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from opensora.config.target import find_calibration
from opensora.config.trained_on import TrainedOn, trained_on
from opensora.datasets.aspect import DURATIONS, RESOLUTIONS
from opensora.environment import command_line
from opensora.errors import ConfigError, UserError, WeightsError
from opensora.files import REPO_ROOT
from opensora.prompts.files import is_stream
from opensora.studio.results import label_of_aim
from opensora.weights.layout import PIECES
from opensora.weights.locate import find_piece

_HIDDEN = ("_base_", "bench")  # folders whose configs are not offered
_FIRST = "mini"
OUTCOMES = {"max_steps_computed": "Computed steps", "speedup": "Speed-up", "min_psnr": "PSNR"}


@dataclass(frozen=True)
class Variant:
    """One config file: a way to spend compute on a model's videos.

    Attributes:
        path: path of the config as a user types it.
        calibration: calibration that turns an outcome into a schedule; None if the config has no target.
    """

    label: str
    path: str
    config: SampleConfig
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Model:
    """Configs of the same weights, size and steps.

    Attributes:
        knows: what the model was trained on, if that is recorded.
        resolutions, durations: names of sizes and lengths that its configs take; of use where it is not recorded.
    """

    name: str
    variants: list[Variant]
    knows: TrainedOn | None
    resolutions: Sequence[str] = ()
    durations: Sequence[str] = ()

    @property
    def config(self) -> SampleConfig:
        """The config of the first variant."""
        return self.variants[0].config

    def variant(self, label: str | None) -> Variant:
        """Return the variant with this label, or the first one if there is none."""
        return next((variant for variant in self.variants if variant.label == label), self.variants[0])

    @property
    def sizes(self) -> list[str]:
        """Sizes to choose from, the config's own first, as "128 x 128" (height x width) or "720p"."""
        own = size_text(self.config.height, self.config.width)
        known = [size_text(*size) for _, *size in self.knows.videos] if self.knows else self.resolutions
        return list(dict.fromkeys([own, *known]))

    @property
    def lengths(self) -> list[str]:
        """Numbers of frames to choose from, the config's own first."""
        known = sorted({frames for frames, *_ in self.knows.videos}) if self.knows else [*self.durations, 1]
        return list(dict.fromkeys([str(self.config.num_frames), *map(str, known)]))


@dataclass(frozen=True)
class Wish:
    """What a person has entered into the form.

    Attributes:
        outcome: one of `OUTCOMES` and its value, for a variant with a calibration.
        size, length: one of the model's `sizes` and `lengths`.
        drafts: number of drafts; None samples one video with these settings.
    """

    prompt: str
    model: Model
    variant: Variant
    outcome: tuple[str, float] | None = None
    size: str = ""
    length: str = ""
    seed: int | None = None
    references: Sequence[Path] = ()
    mask_strategy: str = ""
    drafts: int | None = None


def size_text(height: int, width: int) -> str:
    """Return the height and width of a video as text."""
    return f"{height} x {width}"


def find_models(own: Sequence[str] = (), weights_dir: str | None = None) -> list[Model]:
    """Return the models of `own` configs, then those of the bundled configs whose weights are on this machine.

    Raises:
        ConfigError, WeightsError: one of `own` cannot be used, or there is no model at all.
    """
    bundled = [path for path in sorted((REPO_ROOT / "configs").rglob("*.py")) if path.parent.name not in _HIDDEN]
    bundled.sort(key=lambda path: path.parent.name != _FIRST)
    names = [path.relative_to(REPO_ROOT).as_posix() for path in bundled]
    own_files = {find_config(path).resolve() for path in own}
    paths = [*dict.fromkeys(own), *(name for name in names if (REPO_ROOT / name).resolve() not in own_files)]
    groups: dict[tuple[Any, ...], list[Variant]] = {}
    for path in paths:
        try:
            config = _load_quietly(path, {"weights_dir": weights_dir})
            if not _is_here(config):
                raise WeightsError(f"{path}: its weights are not on this machine; see '{command_line('weights')} list'")
        except UserError:
            if path in own:
                raise
            continue
        key = (config.model, config.vae, config.scheduler, config.height, config.width, config.num_frames)
        groups.setdefault(key, []).append(_variant(path, config))
    if not groups:
        raise ConfigError("no config has its weights on this machine; give one as an argument, or --weights-dir")
    models = [_model(variants) for variants in groups.values()]
    names = [model.name for model in models]
    return [m if names.count(m.name) == 1 else replace(m, name=f"{m.name} ({m.variants[0].path})") for m in models]


def _model(variants: list[Variant]) -> Model:
    """Return a model whose variants have distinct labels; those that compute every step come first."""
    config = variants[0].config
    knows = trained_on(config.model.from_pretrained)
    folder = knows.name if knows else Path(variants[0].path).parent.name
    named = _told_apart(_told_apart(variants, lambda variant: Path(variant.path).stem), lambda variant: variant.path)
    named.sort(key=lambda v: v.config.cache is not None)
    name = f"{folder}, {config.num_frames} frames of {size_text(config.height, config.width)}"
    if knows:
        return Model(name, named, knows)
    resolutions, durations = (
        [value for value in values if _can_be_set(named[0].path, flag, value)]
        for flag, values in (("resolution", RESOLUTIONS), ("num_frames", DURATIONS))
    )
    return Model(name, named, knows, resolutions, durations)


def _load_quietly(path: str, flags: Mapping[str, Any]) -> SampleConfig:
    """Load a config; otherwise each one with a target would log the schedule that it chose."""
    logger = logging.getLogger("opensora.config")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return load_config(path, flags)
    finally:
        logger.setLevel(level)


def _can_be_set(path: str, flag: str, value: str) -> bool:
    """Whether a config takes a value: some have no aspect ratio for a resolution, or a model without durations."""
    try:
        _load_quietly(path, {flag: value})
    except UserError:
        return False
    return True


def _told_apart(variants: Sequence[Variant], name: Callable[[Variant], str]) -> list[Variant]:
    """Return the variants; those that share a label get their name behind it."""
    labels = [variant.label for variant in variants]
    return [v if labels.count(v.label) == 1 else replace(v, label=f"{v.label} ({name(v)})") for v in variants]


def _variant(path: str, config: SampleConfig) -> Variant:
    cache, calibration = config.cache, None
    if cache is None:
        label = "Every step"
    elif any(getattr(config, name) is not None for name in TARGETS):
        calibration = Calibration.load(find_calibration(config.calibration, config.path))
        label = label_of_aim(calibration.aim)
    elif isinstance(cache, AdaCacheConfig):
        label = "AdaCache + MoReg" if cache.moreg else "AdaCache"
    else:
        label = Path(path).stem
    return Variant(label, path, config, calibration)


def _is_here(config: SampleConfig) -> bool:
    pieces = (find_piece(name, getattr(config, name).from_pretrained, config.weights_dir) for name in PIECES)
    return all(piece.is_complete for piece in pieces)


def arguments_of(wish: Wish, root: Path) -> list[str]:
    """Return the arguments of the sampling command for a wish; their folder is the command's own choice, below `root`.

    Flags that repeat the config are left out, so that equal wishes have equal folders.

    Raises:
        UserError: the wish cannot be sampled; the message says why.
    """
    prompt, config = " ".join(wish.prompt.split()), wish.variant.config
    if not prompt:
        raise ConfigError("write what the video shows")
    if "{" in prompt:  # settings of the command, which may name any file of this machine
        raise ConfigError(
            "the page takes no settings within a prompt; leave out { and upload the image or video instead"
        )
    flags = [f"--prompt={prompt}"]
    if wish.size and wish.size != size_text(config.height, config.width):
        sides = wish.size.split(" x ")
        flags += ["--image-size", *sides] if len(sides) == 2 else ["--resolution", wish.size]
    if wish.length and wish.length != str(config.num_frames):
        flags += ["--num-frames", wish.length]
    if wish.seed is not None and wish.seed != config.seed:
        flags += ["--seed", str(wish.seed)]
    if wish.outcome is not None:
        kind, value = wish.outcome
        flags += [f"--{kind.replace('_', '-')}", f"{value:g}"]
    if wish.references:
        flags.append(f"--reference-path={';'.join(map(str, wish.references))}")
    if wish.mask_strategy.strip():
        flags.append(f"--mask-strategy={wish.mask_strategy.strip()}")
    if wish.drafts is not None:
        flags += ["--draft", str(wish.drafts)]
    if config.weights_dir is not None:
        flags += ["--weights-dir", config.weights_dir]
    return with_folder([wish.variant.path, *flags], root)


def with_folder(arguments: list[str], root: Path, folder: Path | None = None) -> list[str]:
    """Check that the sampling command can use `arguments`, and return them with a folder for their results.

    Args:
        folder: a folder below `root`; None takes the one that the command would choose, below `root` instead of
            "samples".

    Raises:
        UserError: the arguments cannot be used, or the folder is not below `root`.
    """
    try:
        path, flags, options = parse_arguments(arguments)
    except SystemExit:
        raise ConfigError("the sampling command cannot read this; put the prompt in other words") from None
    flags.pop("words")
    if flags["prompt_path"] is not None and is_stream(flags["prompt_path"]):
        raise ConfigError("these prompts came from standard input, which can be read once; save them in a file first")
    own = Path(prepare(path, flags, options).config.save_dir)
    if folder is None:  # a sidecar's results go to a folder beside it
        is_beside = flags["from_sidecar"] is not None
        folder = own if is_beside else root.joinpath(*own.parts[own.parts[:1] == ("samples",) :])
    if not folder.resolve().is_relative_to(root):
        raise ConfigError(f"the config writes to {folder}, which is not below the studio's {root}; leave out save_dir")
    return [*arguments, "--save-dir", str(folder)]


def expectation(calibration: Calibration, kind: str, value: float) -> tuple[int, str]:
    """Return how many steps an outcome computes in a run as long as the calibrated ones, and what to expect in words.

    Raises:
        ValueError: the outcome cannot be met; the message says what can.
    """
    total = calibration.num_steps
    target = Target(kind, int(value) if kind == "max_steps_computed" else float(value))
    count = len(target.resolve(calibration, calibration.timesteps).computed_steps)
    quality = "a quality that was not measured"  # beyond the measured counts the curve only repeats its ends
    if len(calibration.measured[0].computed_steps) <= count <= len(calibration.measured[-1].computed_steps):
        quality = f"about {calibration.psnr(count):.1f} dB to {REFERENCES[calibration.aim]}"
    elif count == total:
        quality = "no step is reused"
    return count, f"{count} of {total} steps computed, {calibration.speedup(count, total):.1f}x as fast, {quality}"
