"""One sampling run: prompts in, videos with their traces out."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adacache.atomic import atomic_path
from adacache.outcome import surprises
from adacache.policies.registry import config_to_dict
from adacache.risk import change_risk
from adacache.trace import SummaryRow, Trace, summary_table
from opensora.config.schema import SampleConfig
from opensora.datasets.video_io import write_video
from opensora.utils.device import limit_threads
from opensora.utils.prompts import get_save_path_name
from opensora.utils.run_prompts import NumberedPrompt
from opensora.utils.weights import WeightPaths

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "diffusers", "transformers", "mmengine", "av", "numpy", "opensora-adacache")


@dataclass(frozen=True)
class SampleResult:
    """What one prompt became under one seed.

    ``trace`` is None when every step was computed without a controller, ``risk`` (``change_risk``) but for drafts.
    """

    prompt: NumberedPrompt
    video: Path
    num_steps: int
    seconds: float
    trace: Trace | None
    risk: float | None = None

    def summary_row(self) -> SummaryRow:
        """This sample's line of the final table."""
        saving = None if self.trace is None else self.trace.estimated_saving
        return SummaryRow(self.video.name, self.num_computed, self.num_steps, self.seconds, saving, self.risk)

    @property
    def num_computed(self) -> int:
        """How many steps were computed."""
        return self.num_steps if self.trace is None else self.trace.num_computed


def sample_all(config: SampleConfig, prompts: Sequence[NumberedPrompt], weights: WeightPaths) -> Iterator[SampleResult]:
    """Sample the prompts in batches of ``config.batch_size``; yields each result once its files are written.

    Beside every mp4 lies a JSON file with its trace, prompt, seed, config and versions; with a cache also a
    picture of the trace. Files appear complete or not at all, so finished samples survive an interrupt.

    Raises:
        ConfigError: the device does not exist.
        CheckpointError: a checkpoint does not fit its model.
        SamplingError: the latents stopped being finite.
    """
    from opensora.pipeline import SamplingPipeline

    if config.verbose == 0:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    folder = output_folder(config)
    stems = _file_stems(config, prompts)
    pipe = SamplingPipeline.from_config(weights.applied_to(config))
    limit_threads(pipe.model)
    if config.cache is not None and config.cache.schedule == "batch" and config.batch_size > 1:
        logger.info("the videos of a batch share one schedule; cache.schedule='sample' gives each its own")
    for start in range(0, len(prompts), config.batch_size):
        batch = prompts[start : start + config.batch_size]
        numbers = f"{start + 1}" if len(batch) == 1 else f"{start + 1} to {start + len(batch)}"
        texts = [prompt.text for prompt in batch]
        logger.info("video %s of %d: %s", numbers, len(prompts), " | ".join(dict.fromkeys(texts)))
        output = pipe(texts, seed=[prompt.seed for prompt in batch])
        for prompt, frames, trace in zip(batch, output.videos, output.traces, strict=True):
            stem = stems[prompt]
            result = SampleResult(
                prompt,
                write_video(folder / f"{stem}.mp4", frames, config.save_fps),
                config.scheduler.num_sampling_steps,
                output.seconds / len(batch),
                trace,
                change_risk(trace) if config.draft and trace else None,
            )
            _write_records(folder, stem, result, frames, config)
            logger.info("wrote %s", result.video)
            for surprise in [] if trace is None else surprises(trace, config.cache):
                logger.warning("WARNING %s: %s", result.video.name, surprise)
            yield result


def output_folder(config: SampleConfig) -> Path:
    """``save_dir``, or its subfolder named by the present date and time; therein ``drafts`` or ``final`` for these."""
    folder = Path(config.save_dir).expanduser()
    if config.logdate_dir:
        folder /= time.strftime("%Y-%m-%d_%H-%M-%S")
    if config.draft:
        return folder / "drafts"
    return folder / "final" if config.final else folder


def results_table(results: Sequence[SampleResult]) -> str:
    """The table a run ends with: video, computed steps, seconds, estimated saving; of drafts also the risk."""
    return summary_table([result.summary_row() for result in results])


def _file_stems(config: SampleConfig, prompts: Sequence[NumberedPrompt]) -> dict[NumberedPrompt, str]:
    """File names without suffix; prompts that begin alike get their index appended, drafts and finals their seed."""
    stems = {
        prompt.index: get_save_path_name(
            "", config.sample_name, prompt.index, prompt.text, prompt_as_path=config.prompt_as_path
        )
        for prompt in prompts
    }
    names = [stem.casefold() for stem in stems.values()]  # some file systems do not tell case apart
    stems = {
        index: stem if names.count(stem.casefold()) == 1 else f"{stem}_{index:04d}" for index, stem in stems.items()
    }
    seeded = config.draft is not None or config.final is not None
    return {prompt: f"{stems[prompt.index]}_seed{prompt.seed}" if seeded else stems[prompt.index] for prompt in prompts}


def _write_records(folder: Path, stem: str, result: SampleResult, frames: np.ndarray, config: SampleConfig) -> None:
    """The JSON file, the picture of the trace and, when asked for, the exact frames."""
    metadata = {
        "video": result.video.name,
        "prompt": result.prompt.text,
        "seed": result.prompt.seed,
        "seconds": round(result.seconds, 3),
        **({"risk": result.risk} if config.draft else {}),
        "versions": _versions(),
        "config": _plain(config),
    }
    json_path = folder / f"{stem}.json"
    if result.trace is None:
        with atomic_path(json_path) as temporary:
            temporary.write_text(json.dumps({"metadata": metadata}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    else:
        from adacache.trace_plot import plot_trace

        result.trace.save(json_path, **metadata)
        picture = folder / f"{stem}.trace.png"  # an image sample is itself a png
        codebook = getattr(config.cache, "codebook", None)  # a static schedule has none
        threshold = getattr(config.cache, "threshold", None)  # of policies that go by a signal
        plot_trace(result.trace, picture, codebook, result.prompt.text, frames, threshold)
    if config.save_frames:
        import numpy as np

        with (
            atomic_path(folder / f"{stem}.frames.npz") as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(file, frames=frames)


def _plain(config: SampleConfig) -> dict[str, Any]:
    """The config as JSON values."""
    entries = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    entries["cache"] = config_to_dict(config.cache) if config.cache else None
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for name, value in entries.items()
    }


def _versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
