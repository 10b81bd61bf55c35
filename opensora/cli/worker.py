"""The part of a run that needs the models: from the samples that are due to their files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from opensora.cli.plan import Plan, Result, Sample
from opensora.cli.records import versions, write_sample
from opensora.cli.text_stage import PreparedText, all_kept, encode_captions
from opensora.conditioning.reference_pixels import read_reference
from opensora.conditioning.references import WHOLE, ReferencePart, part_of_reference, sha256_of
from opensora.config.schema import SampleConfig
from opensora.config.trained_on import trained_on
from opensora.device import check_device, limit_threads, release_memory
from opensora.errors import ConfigError, message_for_the_user
from opensora.memory.measure import StageMeter
from opensora.memory.report import check_memory
from opensora.models.text_encoder.encoded_text import negative_prompts
from opensora.pipeline import SamplingPipeline, random_stream
from opensora.prompts.syntax import prepare_captions

if TYPE_CHECKING:
    from opensora.acceleration.video_group import VideoGroup

logger = logging.getLogger(__name__)

MAX_ENCODED = 8  # references whose latents are kept for the samples that follow

Write = Callable[..., tuple[Result, list[Path]]]  # writes the files of a sample
# (config, text, group) -> the pipeline, as `SamplingPipeline.from_config` loads it.
Load = Callable[[SampleConfig, PreparedText, "VideoGroup | None"], SamplingPipeline]


class Worker:
    """Loaded models that make one batch after the other.

    Args:
        group: the processes that share every video with this one.
        progress: False shows no bars, whatever a config says.
        text: result of `encode_text`, if that was called before.
        load: returns the pipeline, such as one whose models were loaded before.

    Raises:
        ConfigError: the device does not exist, or memory does not suffice.
        WeightsError: a checkpoint does not fit its model.
    """

    def __init__(
        self,
        plan: Plan,
        group: VideoGroup | None = None,
        progress: bool = True,
        text: PreparedText | None = None,
        load: Load | None = None,
    ) -> None:
        self._plan = plan
        self._group = group
        self._progress = None if progress else False  # None: as the config says
        config = plan.weights.applied_to(plan.config)
        device = check_device(config.device)
        self._meter = StageMeter(device)
        with self._meter.stage("text"):
            text = text or encode_text(plan, progress, 1 if group is None else group.share[1])
        self._pipe = (load or SamplingPipeline.from_config)(config, text, group)
        limit_threads(self._pipe.model)
        self._own_pipe: tuple[SampleConfig, SamplingPipeline] = (plan.config, self._pipe)  # for a line's settings
        self._encoded: dict[tuple[str, ReferencePart, SampleConfig], torch.Tensor] = {}
        self._places = {sample.stem: place for place, sample in enumerate(plan.samples, start=1)}
        if config.cache is not None and config.cache.schedule == "batch" and config.batch_size > 1:
            logger.info("the videos of a batch share one schedule; cache.schedule='sample' gives each its own")
        self._about = {"versions": versions(), "device": str(device), "weights": dict(plan.fingerprints)}
        if group is not None:
            self._about["processes"] = str(group.shape)

    def sample(self, batch: Sequence[Sample]) -> list[tuple[Sample, Write | str]]:
        """Sample a batch; return each due sample with a function that writes its files, or why it cannot be made.

        Only the leader of a group gets them; the list is empty for others. Call the functions in their order, from
        any thread; they raise OSError if the disk refuses.

        Raises:
            Exception: a bug, or an error of the machine that other samples would meet, too.
        """
        first, last = self._places[batch[0].stem], self._places[batch[-1].stem]
        prompts = " | ".join(dict.fromkeys(sample.text for sample in batch))
        which = first if first == last else f"{first} to {last}"
        logger.info("video %s of %d: %s", which, len(self._places), prompts)
        made = self._sample_or_split(batch)
        if self._group is not None and not self._group.is_leader:
            return []
        # Read now: when the files are written, the next batch is being measured.
        about = {**self._about, "memory": self._meter.as_dict()}
        jobs = [(sample, made[sample.stem]) for sample in batch if sample.is_due]
        return [(sample, job if isinstance(job, str) else partial(job, about=about)) for sample, job in jobs]

    @property
    def memory_line(self) -> str | None:
        """The memory that the stages took, in a sentence; None if nothing was measured."""
        return self._meter.line()

    def _sample_or_split(self, batch: Sequence[Sample]) -> dict[str, Write | str]:
        """Sample a batch, or each of its samples alone if that fails, to find out which one is wrong and why.

        Where processes share a video, only an error that all of them meet is handled so; any other ends the run.
        """
        try:
            pipe = self._pipe_of(batch[0].config)
        except ValueError as error:
            return dict.fromkeys((sample.stem for sample in batch), _reason(error))
        problems: dict[str, str] = {}
        references = {}
        for sample in batch:
            try:
                references[sample.stem] = self._references(pipe, sample)
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                problems[sample.stem] = _reason(error)
        if self._group is not None:  # the others must not wait for a process that cannot read a reference
            problems = dict(self._group.agree(problems))
        ready = [sample for sample in batch if sample.stem not in problems]
        if not ready:
            return problems
        shares = len(batch) > 1 and getattr(batch[0].config.cache, "schedule", None) == "batch"
        if shares and problems:
            return dict.fromkeys((sample.stem for sample in ready), _not_alone(next(iter(problems)))) | problems
        try:
            return problems | self._sample(pipe, ready, references)
        except self._own_errors as error:
            problem = _reason(error)
        # Not within the except block: the error holds on to the tensors of the batch.
        del references
        release_memory(self._about["device"])
        if shares:
            return {sample.stem: f"{problem} (its batch shares one schedule)" for sample in ready}
        if len(ready) == 1:
            return {**problems, ready[0].stem: problem}
        logger.warning("WARNING: a batch failed (%s); its samples are tried one by one", problem)
        made: dict[str, Write | str] = dict(problems)
        for sample in ready:
            made |= self._sample_or_split([sample])
        return made

    @property
    def _own_errors(self) -> tuple[type[Exception], ...]:
        """Errors after which the next sample can be tried; not those of one process that leave others waiting."""
        shares = self._group is not None and self._group.video is not None
        return (ValueError,) if shares else (ValueError, RuntimeError, MemoryError)

    def _pipe_of(self, config: SampleConfig) -> SamplingPipeline:
        """Return the models with the settings of `config`.

        Raises:
            ConfigError: the cache does not fit the model.
        """
        if config is self._plan.config:
            return self._pipe
        if config is not self._own_pipe[0]:  # batches of the same settings follow each other
            self._own_pipe = (config, self._pipe.with_config(config))
        return self._own_pipe[1]

    def _sample(
        self, pipe: SamplingPipeline, batch: Sequence[Sample], references: Mapping[str, Sequence[torch.Tensor]]
    ) -> dict[str, Write]:
        conditioned = any(references[sample.stem] for sample in batch)
        output = pipe(
            [sample.text for sample in batch],
            seed=[sample.seed for sample in batch],
            references=[references[sample.stem] for sample in batch] if conditioned else None,
            mask_strategies=[sample.mask_strategy for sample in batch] if conditioned else None,
            meter=self._meter,
            progress=self._progress,
        )
        by_loop = [output.traces, *output.later_traces]
        return {
            sample.stem: partial(
                write_sample,
                self._plan.folder,
                sample,
                frames=output.videos[i],
                captions=_captions(sample),
                traces=[traces[i] for traces in by_loop],
                seconds=output.seconds / len(batch),
            )
            for i, sample in enumerate(batch)
        }

    def _references(self, pipe: SamplingPipeline, sample: Sample) -> list[torch.Tensor]:
        """Return the latents of a sample's references; files that several samples share are encoded once.

        Raises:
            ConfigError: a file has changed since the run began, or cannot be read.
        """
        config, latents = sample.config, []
        for number, (info, digest) in enumerate(zip(sample.references, sample.reference_hashes, strict=True)):
            part = part_of_reference(sample.mask_strategy, number, config) if info.kind == "video" else WHOLE
            key = (digest, part, config)
            if key not in self._encoded or config.compat:
                if sha256_of(info.path) != digest:
                    raise ConfigError(f"reference '{info.path}' was changed since the run began; start it again")
                frames = read_reference(info.path, config.height, config.width, part.max_frames, part.last_frames)
                frames = frames[:, part.first_frame(frames.shape[1]) :]
                if len(self._encoded) >= MAX_ENCODED:
                    self._encoded.clear()
                generator = random_stream(sample.seed, "reference", number)  # drawn from with compat only
                with self._meter.stage("references"):
                    self._encoded[key] = pipe.encode_reference(frames, generator)
            latents.append(self._encoded[key])
        return latents


def encode_text(plan: Plan, progress: bool = True, processes: int = 1) -> PreparedText:
    """Encode all captions that are due; the text encoder is loaded only for those that are not kept on disk.

    This is the first stage that takes memory, so the memory of all stages is checked here. The log warns of what the
    model was not trained on.

    Args:
        processes: how many share a video.

    Raises:
        ConfigError: memory does not suffice, or as `encode_captions`.
        WeightsError: as `encode_captions`.
    """
    config = plan.weights.applied_to(plan.config)
    device, negative = check_device(config.device), negative_prompts(config)
    due = [sample for batch in plan.due_batches for sample in batch]
    every = [caption for sample in due for caption in _captions(sample)]
    largest = max((sample.config for sample in due), key=lambda c: c.height * c.width * c.num_frames)
    known = trained_on(config.model.from_pretrained)
    if known is not None and progress:
        sizes = ((sample.config.num_frames, sample.config.height, sample.config.width) for sample in due)
        for line in known.outside(list(dict.fromkeys(every)), sizes):
            logger.warning("WARNING %s", line)
    kept = all_kept(config, every, device, negative)
    references = any(sample.references for sample in due)
    check_memory(plan.weights.applied_to(largest), len(due), device, not kept, processes, references)
    shown = progress and config.verbose > 0
    return encode_captions(config, every, device, shown, negative, quiet=not progress)


def _not_alone(stem: str) -> str:
    """Return why a sample is not made: alone, its schedule would be another than with the others of its batch."""
    return f"its batch shares one schedule with {stem}, which cannot be made; mend that, or set cache.schedule='sample'"


def _captions(sample: Sample) -> list[str]:
    """Return what the text encoder reads for a sample: a caption for each loop."""
    config = sample.config
    return prepare_captions(sample.text, config.aes, config.flow, config.camera_motion, config.loop)


def _reason(error: Exception) -> str:
    """Return the sentence about an error that concerns one sample alone; raise any other again."""
    message = message_for_the_user(error)
    if message is None:
        raise error
    return message
