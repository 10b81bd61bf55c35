"""One run of the sampling command, from a plan to files, with the ledger kept on the way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adacache.outcome import surprises
from adacache.risk import change_risk
from adacache.trace import Trace
from opensora.config.model_calls import num_model_calls
from opensora.config.schema import SampleConfig
from opensora.sampling.batches import make_batches
from opensora.sampling.identity import config_hash, plain_config, sample_identity, weight_fingerprints
from opensora.sampling.ledger import Ledger
from opensora.sampling.plan import PlannedSample
from opensora.sampling.records import Sampled, trace_name, wanted_files, write_sample
from opensora.sampling.refining import refined_texts
from opensora.sampling.result import SampleResult
from opensora.sampling.versions import versions
from opensora.utils.errors import one_line
from opensora.utils.weights import WeightPaths

logger = logging.getLogger(__name__)


def output_folder(config: SampleConfig) -> Path:
    """``save_dir``, or its subfolder named by the present date and time; therein ``drafts`` or ``final`` for these."""
    folder = Path(config.save_dir)
    if config.logdate_dir:
        folder /= time.strftime("%Y-%m-%d_%H-%M-%S")
    if config.draft:
        return folder / "drafts"
    return folder / "final" if config.final else folder


@dataclass
class Session:
    """The samples of a run and what is known about them.

    Attributes:
        weights: all on this machine.
        pending: stems of the samples that have to be made.
        failed: stem -> why it could not be made.
        results: of finished samples, those of earlier runs among them, by stem.
        begun: whether one was being made already.
    """

    config: SampleConfig
    samples: Sequence[PlannedSample]
    weights: WeightPaths
    ledger: Ledger
    pending: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    results: dict[str, SampleResult] = field(default_factory=dict)
    begun: bool = False

    def __post_init__(self) -> None:
        self._fingerprints = weight_fingerprints(self.weights)
        self._identities: dict[str, str] = {}
        self._batches = make_batches(self.samples)
        batch_of = {sample.stem: batch for batch in self._batches for sample in batch}
        resampled = self.ledger.resampled() if self.config.resample else None
        for sample in self.samples:
            if sample.problem is not None:
                continue
            identity = sample_identity(sample, self._fingerprints, batch_of[sample.stem])
            self._identities[sample.stem] = identity
            wanted = wanted_files(sample.stem, sample.config)
            may_stay = resampled is None or sample.stem in resampled
            done = may_stay and self.ledger.is_done(sample.stem, identity, wanted)
            result = _finished(self.ledger.folder, sample, wanted) if done else None
            if result is None:
                self.pending.add(sample.stem)
            else:
                self.results[sample.stem] = result

    def begin(self, command: Sequence[str]) -> None:
        """Enter the run and its samples into the ledger; samples with a problem have failed already."""
        about = {"config_hash": config_hash(self.config), "config": plain_config(self.config)}
        self.ledger.begin_run(command=list(command), versions=versions(), resample=self.config.resample, **about)
        for stem in self.results if self.config.resample else ():
            self.ledger.entries[stem].run = (
                len(self.ledger.runs) - 1
            )  # counts as made by this command, if it is cut short
        for sample in self.samples:
            if sample.problem is not None:
                self.failed[sample.stem] = sample.problem
                self.ledger.note_problem(sample, sample.problem)
                logger.warning("WARNING %s cannot be made: %s", sample.stem, sample.problem)
            elif sample.stem in self.pending:
                wanted = wanted_files(sample.stem, sample.config)
                self.ledger.plan(sample, self._identities[sample.stem], config_hash(sample.config), wanted)
        self.ledger.save()

    def sample(self) -> Iterator[SampleResult]:
        """Make what is pending; yields each result once its files are written.

        Raises:
            ConfigError: the device does not exist, or memory does not suffice.
            CheckpointError: a checkpoint does not fit its model.
            OSError: the disk refuses; what is finished is kept.
        """
        from opensora.memory.measure import StageMeter
        from opensora.memory.report import check_memory
        from opensora.models.text_encoder.guidance import negative_prompts
        from opensora.models.text_encoder.prepared_text import all_kept, encode_captions
        from opensora.pipeline import SamplingPipeline
        from opensora.prompts.captions import prepare_captions
        from opensora.sampling.make import Failure, Maker
        from opensora.utils.device import check_device, limit_threads

        config = self.weights.applied_to(self.config)
        batches = [batch for batch in self._batches if any(s.stem in self.pending for s in batch)]
        chosen = [sample for batch in batches for sample in batch]
        if not chosen:
            return
        texts = refined_texts(chosen, self.ledger)
        captions = {
            sample.stem: prepare_captions(
                texts[sample.stem],
                *(sample.config.aes, sample.config.flow, sample.config.camera_motion),
                sample.config.loop,
            )
            for sample in chosen
        }
        device = check_device(config.device)
        every = [caption for sample in chosen for caption in captions[sample.stem]]
        largest = max((sample.config for sample in chosen), key=lambda c: c.height * c.width * c.num_frames)
        largest = self.weights.applied_to(largest)
        negative = negative_prompts(config)
        check_memory(largest, len(chosen), device, text=not all_kept(config, every, device, negative))
        meter = StageMeter(device)
        with meter.stage("text"):
            text_encoder = encode_captions(config, every, device, config.verbose > 0, negative)
        pipe = SamplingPipeline.from_config(config, text_encoder)
        limit_threads(pipe.model)
        if config.cache is not None and config.cache.schedule == "batch" and config.batch_size > 1:
            logger.info("the videos of a batch share one schedule; cache.schedule='sample' gives each its own")
        maker = Maker(pipe, self.config, texts, captions, meter)
        about = {"versions": versions(), "device": str(device), "weights": self._fingerprints}
        numbers = {sample.stem: number for number, sample in enumerate(self.samples, start=1)}
        for batch in batches:
            due = [sample.stem for sample in batch if sample.stem in self.pending]
            first, last = numbers[batch[0].stem], numbers[batch[-1].stem]
            prompts = " | ".join(dict.fromkeys(texts[sample.stem] for sample in batch))
            logger.info(
                "video %s of %d: %s", first if first == last else f"{first} to {last}", len(self.samples), prompts
            )
            self.begun = True
            self.ledger.start(due)
            made = maker.make(batch)
            for sample in batch:
                if sample.stem not in due:
                    continue
                outcome = made.pop(sample.stem)
                if isinstance(outcome, Failure):
                    self._fail(sample.stem, outcome)
                else:
                    yield self._write(sample, outcome, {**about, "memory": meter.as_dict()})
                del outcome  # its frames, before the next batch is made
        if meter.line() is not None:
            logger.info(meter.line())

    def _write(self, sample: PlannedSample, sampled: Sampled, about: Mapping[str, object]) -> SampleResult:
        """Write one sample's files and enter them into the ledger."""
        trace = sampled.traces[0]
        risk = change_risk(trace) if self.config.draft and trace else None
        extra = {"risk": risk} if self.config.draft else {}
        video, files = write_sample(self.ledger.folder, sample, sampled, {**extra, **about})
        self.ledger.finish(sample.stem, files, sampled.seconds)
        later = tuple(trace for trace in sampled.traces[1:] if trace is not None)
        result = SampleResult(
            sample.prompt, video, _num_steps(sample), sampled.seconds, trace, risk, tuple(files), later
        )
        self.results[sample.stem] = result
        self.pending.discard(sample.stem)
        logger.info("wrote %s", video)
        for trace in sampled.traces:
            for surprise in [] if trace is None else surprises(trace, sample.config.cache):
                logger.warning("WARNING %s: %s", video.name, surprise)
        return result

    def _fail(self, stem: str, why: str) -> None:
        self.pending.discard(stem)
        self.failed[stem] = str(why)
        self.ledger.fail(stem, str(why))
        logger.warning("WARNING %s cannot be made: %s", stem, why)


def _finished(folder: Path, sample: PlannedSample, wanted: Sequence[str]) -> SampleResult | None:
    """The result of a sample that an earlier run finished, read from its sidecar; None where that is damaged."""
    path = folder / f"{sample.stem}.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        seconds, risk = float(metadata["seconds"]), metadata.get("risk")
        loops = range(sample.config.loop if sample.config.cache is not None else 0)
        traces = tuple(Trace.load(folder / trace_name(sample.stem, loop)) for loop in loops)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("WARNING %s is damaged (%s); the sample is made again", path, one_line(error))
        return None
    files = tuple(folder / name for name in wanted)
    first = traces[0] if traces else None
    return SampleResult(sample.prompt, files[0], _num_steps(sample), seconds, first, risk, files, traces[1:])


def _num_steps(sample: PlannedSample) -> int:
    """Steps of all its loops: calls of the model."""
    return num_model_calls(sample.config.scheduler) * sample.config.loop
