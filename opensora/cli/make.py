"""From planned samples to frames: one batch at a time, a bad sample failing alone."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from opensora.cli.plan import PlannedSample
from opensora.cli.records import Sampled
from opensora.conditioning.reference_part import WHOLE, ReferencePart, part_of_reference
from opensora.conditioning.references import read_reference, sha256_of
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError, message_for_the_user
from opensora.memory.measure import StageMeter

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline

logger = logging.getLogger(__name__)

REFERENCE_SEED_OFFSET = 2**40  # where compat draws references at random, not as sampling does
MAX_ENCODED = 8  # references whose latents are kept for the samples that follow


class Failure(str):
    """Why a sample could not be made, in one sentence."""


class Maker:
    """Loaded models, and what the text encoder reads about every sample.

    Args:
        pipe: with the settings of ``config``, the run's; for samples that set something for themselves others are made
            of the same models.
        captions: by file stem, one text per loop.
        texts: by file stem, the prompts that they were prepared from.
        progress: False shows no bars, whatever a config says.
    """

    def __init__(
        self,
        pipe: SamplingPipeline,
        config: SampleConfig,
        texts: Mapping[str, str],
        captions: Mapping[str, Sequence[str]],
        meter: StageMeter,
        progress: bool = True,
    ) -> None:
        self._pipes = {config: pipe}
        self._texts = texts
        self._captions = captions
        self._meter = meter
        self._progress = None if progress else False  # None: as a config says
        self._group = pipe.group
        self._encoded: dict[tuple[str, ReferencePart, SampleConfig], torch.Tensor] = {}

    def make(self, batch: Sequence[PlannedSample]) -> dict[str, Sampled | Failure]:
        """What became of every sample of a batch, by file stem.

        What is wrong with one of them is found by sampling each alone. Where processes share a video, that goes for
        errors that all of them meet; any other one ends the run.

        Raises:
            Exception: a bug, or an error of the machine that others would meet, too.
        """
        try:
            pipe = self._pipe_of(batch[0].config)
        except ValueError as error:
            return dict.fromkeys((sample.stem for sample in batch), _failure(error))
        results: dict[str, Sampled | Failure] = {}
        references = {}
        for sample in batch:
            try:
                references[sample.stem] = self._references(pipe, sample)
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                results[sample.stem] = _failure(error)
        if self._group is not None:  # what one process cannot read, the others must not wait for it to sample
            found = self._group.agree(results)
            references = {stem: latents for stem, latents in references.items() if stem not in found}
            results = {stem: Failure(why) for stem, why in found.items()}
        ready = [sample for sample in batch if sample.stem in references]
        if not ready:
            return results
        try:
            return results | self._sample(pipe, ready, references)
        except self._own_errors as error:
            failure = _failure(error)
        # Not within the except block: the error holds on to the tensors of the batch.
        del references
        _release_memory()
        if len(ready) == 1:
            return {**results, ready[0].stem: failure}
        logger.warning("WARNING: a batch failed (%s); its samples are tried one by one", failure)
        for sample in ready:
            results |= self.make([sample])
        return results

    @property
    def _own_errors(self) -> tuple[type[Exception], ...]:
        """Errors after which the next sample can be tried. One process out of memory leaves the others waiting."""
        shares = self._group is not None and self._group.video is not None
        return (ValueError,) if shares else (ValueError, RuntimeError, MemoryError)

    def _pipe_of(self, config: SampleConfig) -> SamplingPipeline:
        """The models with the settings of ``config``.

        Raises:
            ConfigError: the cache does not fit the model.
        """
        if config not in self._pipes:
            self._pipes[config] = next(iter(self._pipes.values())).with_config(config)
        return self._pipes[config]

    def _sample(
        self,
        pipe: SamplingPipeline,
        batch: Sequence[PlannedSample],
        references: Mapping[str, Sequence[torch.Tensor]],
    ) -> dict[str, Sampled | Failure]:
        conditioned = any(references[sample.stem] for sample in batch)
        output = pipe(
            [self._texts[sample.stem] for sample in batch],
            seed=[sample.prompt.seed for sample in batch],
            references=[references[sample.stem] for sample in batch] if conditioned else None,
            mask_strategies=[sample.mask_strategy for sample in batch] if conditioned else None,
            meter=self._meter,
            progress=self._progress,
        )
        by_loop = [output.traces, *output.later_traces]
        return {
            sample.stem: Sampled(
                output.videos[i],
                self._texts[sample.stem],
                [traces[i] for traces in by_loop],
                list(self._captions[sample.stem]),
                output.seconds / len(batch),
            )
            for i, sample in enumerate(batch)
        }

    def _references(self, pipe: SamplingPipeline, sample: PlannedSample) -> list[torch.Tensor]:
        """The latents of a sample's references; those of files that several samples share are encoded once.

        Raises:
            ConfigError: a file is not any more what it was when the run began, or cannot be read.
        """
        config, latents = sample.config, []
        for number, (info, digest) in enumerate(zip(sample.references, sample.reference_hashes, strict=True)):
            part = part_of_reference(sample.mask_strategy, number, config) if info.kind == "video" else WHOLE
            key = (digest, part, config)
            if key not in self._encoded or config.compat:
                if sha256_of(info.path) != digest:
                    raise ConfigError(f"reference '{info.path}' was changed since the run began; start it again")
                frames = read_reference(info.path, config.height, config.width, part.max_frames)
                frames = frames[:, part.first_frame(frames.shape[1]) :]
                if len(self._encoded) >= MAX_ENCODED:
                    self._encoded.clear()
                generator = torch.Generator().manual_seed(sample.prompt.seed + REFERENCE_SEED_OFFSET + number)
                with self._meter.stage("references"):
                    self._encoded[key] = pipe.encode_reference(frames, generator)
            latents.append(self._encoded[key])
        return latents


def _failure(error: Exception) -> Failure:
    """The sentence about an error that one sample may have alone; others are raised again."""
    message = message_for_the_user(error)
    if message is None:
        raise error
    return Failure(message)


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
