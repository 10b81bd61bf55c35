"""The part of a run that needs the models: from the samples that are due to their files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensora.cli.make import Failure, Maker
from opensora.cli.plan import PlannedSample
from opensora.cli.records import Sampled, write_sample
from opensora.cli.text_stage import PreparedText, all_kept, encode_captions
from opensora.cli.versions import versions
from opensora.config.schema import SampleConfig
from opensora.device import check_device, limit_threads
from opensora.memory.measure import StageMeter
from opensora.memory.report import check_memory
from opensora.models.text_encoder.encoded_text import negative_prompts
from opensora.pipeline import SamplingPipeline
from opensora.prompts.syntax import prepare_captions
from opensora.weights import WeightPaths

if TYPE_CHECKING:
    from adacache.trace import Trace
    from opensora.acceleration.video_group import VideoGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What a process has to know to make the videos of a run.

    Attributes:
        weights: all on this machine.
        fingerprints: of these, by piece.
        batches: of which at least one sample is due.
        pending: stems of the samples that are due.
        texts: by stem of the samples in ``batches``, the prompts or what a language model made of them.
        numbers: by stem, the sample's place among all of the run, from 1.
        folder: where the files go.
    """

    config: SampleConfig
    weights: WeightPaths
    fingerprints: Mapping[str, str]
    batches: Sequence[Sequence[PlannedSample]]
    pending: frozenset[str]
    texts: Mapping[str, str]
    numbers: Mapping[str, int]
    folder: Path

    def due(self, batch: Sequence[PlannedSample]) -> list[str]:
        """Stems of the batch's samples that have to be made."""
        return [sample.stem for sample in batch if sample.stem in self.pending]

    @property
    def samples(self) -> list[PlannedSample]:
        """Of all batches."""
        return [sample for batch in self.batches for sample in batch]


@dataclass(frozen=True)
class Made:
    """A sample whose files are written."""

    sample: PlannedSample
    video: Path
    files: Sequence[Path]
    seconds: float
    traces: Sequence[Trace | None]
    risk: float | None


@dataclass(frozen=True)
class NotMade:
    """A sample that cannot be made, and why."""

    sample: PlannedSample
    why: str


class Worker:
    """Loaded models, making one batch after the other.

    Args:
        group: the processes that share every video with this one.
        progress: show bars, if the config does.
        text: what ``encode_text`` gave, where that was called before.

    Raises:
        ConfigError: the device does not exist, or memory does not suffice.
        WeightsError: a checkpoint does not fit its model.
    """

    def __init__(
        self,
        task: Task,
        group: VideoGroup | None = None,
        progress: bool = True,
        text: PreparedText | None = None,
    ) -> None:
        self._task = task
        self._group = group
        config = task.weights.applied_to(task.config)
        device = check_device(config.device)
        self._meter = StageMeter(device)
        with self._meter.stage("text"):
            text = text or encode_text(task, progress, 1 if group is None else group.share[1])
        pipe = SamplingPipeline.from_config(config, text, group)
        limit_threads(pipe.model)
        if config.cache is not None and config.cache.schedule == "batch" and config.batch_size > 1:
            logger.info("the videos of a batch share one schedule; cache.schedule='sample' gives each its own")
        self._maker = Maker(pipe, task.config, task.texts, _captions(task), self._meter, progress)
        self._about = {"versions": versions(), "device": str(device), "weights": dict(task.fingerprints)}
        if group is not None:
            self._about["processes"] = str(group.shape)

    def make(self, batch: Sequence[PlannedSample]) -> list[Callable[[], Made | NotMade]]:
        """Sample what is due in a batch; for each sample a call that writes its files, on the leader of the group.

        The calls are to be made in their order, by any thread, and raise OSError if the disk refuses.
        """
        task = self._task
        first, last = task.numbers[batch[0].stem], task.numbers[batch[-1].stem]
        prompts = " | ".join(dict.fromkeys(task.texts[sample.stem] for sample in batch))
        which = first if first == last else f"{first} to {last}"
        logger.info("video %s of %d: %s", which, max(task.numbers.values()), prompts)
        made = self._maker.make(batch)
        if self._group is not None and not self._group.is_leader:
            return []
        # Not when a file is written: the next batch is measured by then.
        about = {**self._about, "memory": self._meter.as_dict()}
        due = [sample for sample in batch if sample.stem in task.pending]
        return [partial(self._write, sample, made[sample.stem], about) for sample in due]

    def _write(self, sample: PlannedSample, outcome: Sampled | Failure, about: Mapping[str, Any]) -> Made | NotMade:
        from adacache.outcome import change_risk

        if isinstance(outcome, Failure):
            return NotMade(sample, outcome)
        trace = outcome.traces[0]
        risk = change_risk(trace) if self._task.config.draft and trace else None
        extra = {"risk": risk} if self._task.config.draft else {}
        video, files = write_sample(self._task.folder, sample, outcome, {**extra, **about})
        return Made(sample, video, files, outcome.seconds, outcome.traces, risk)

    @property
    def memory_line(self) -> str | None:
        """What the stages took, in a sentence."""
        return self._meter.line()


def encode_text(task: Task, progress: bool = True, processes: int = 1) -> PreparedText:
    """What the text encoder says to all captions of a task; it is loaded only for those that are not kept on disk.

    As it is the first stage that takes memory, it is checked here whether all stages have enough.

    Args:
        processes: that share a video.

    Raises:
        ConfigError: memory does not suffice, or as ``encode_captions``.
        WeightsError: as ``encode_captions``.
    """
    config = task.weights.applied_to(task.config)
    device, negative = check_device(config.device), negative_prompts(config)
    every = [caption for texts in _captions(task).values() for caption in texts]
    largest = max((sample.config for sample in task.samples), key=lambda c: c.height * c.width * c.num_frames)
    largest = task.weights.applied_to(largest)
    kept = all_kept(config, every, device, negative)
    check_memory(largest, len(task.samples), device, text=not kept, processes=processes)
    shown = progress and config.verbose > 0
    return encode_captions(config, every, device, shown, negative, quiet=not progress)


def _captions(task: Task) -> dict[str, list[str]]:
    """What the text encoder reads about every sample, by stem: a text for each loop."""
    return {
        sample.stem: prepare_captions(
            task.texts[sample.stem],
            *(sample.config.aes, sample.config.flow, sample.config.camera_motion),
            sample.config.loop,
        )
        for sample in task.samples
    }
