"""One run of the sampling command, from a plan to files, with the ledger kept on the way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adacache.outcome import surprises
from adacache.trace import Trace
from opensora.cli.batches import make_batches
from opensora.cli.identity import config_hash, plain_config, sample_identity, weight_fingerprints
from opensora.cli.ledger import Ledger
from opensora.cli.plan import PlannedSample
from opensora.cli.records import trace_name, wanted_files
from opensora.cli.refining import refined_texts
from opensora.cli.result import SampleResult
from opensora.cli.versions import versions
from opensora.cli.writing import BackgroundWriter
from opensora.config.model_calls import num_model_calls
from opensora.config.schema import SampleConfig
from opensora.errors import one_line
from opensora.weights import WeightPaths

if TYPE_CHECKING:
    from opensora.cli.worker import Made, NotMade, Task

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
            result = read_result(self.ledger.folder, sample, wanted) if done else None
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

    def task(self) -> Task:
        """What is pending, for whoever makes it; asks the language model for prompts that are to be refined."""
        from opensora.cli.worker import Task

        batches = self._due_batches
        texts = refined_texts([sample for batch in batches for sample in batch], self.ledger)
        return Task(
            config=self.config,
            weights=self.weights,
            fingerprints=self._fingerprints,
            batches=batches,
            pending=frozenset(self.pending),
            texts=texts,
            numbers=sample_numbers(self.samples),
            folder=self.ledger.folder,
        )

    @property
    def num_due_batches(self) -> int:
        """Batches in which something is pending."""
        return len(self._due_batches)

    @property
    def _due_batches(self) -> list[list[PlannedSample]]:
        return [batch for batch in self._batches if any(sample.stem in self.pending for sample in batch)]

    def sample(self) -> None:
        """Make what is pending; the files of a batch are written and entered while the next one is sampled.

        What is sampled when an error or an interrupt ends the run is written and entered, too.

        Raises:
            ConfigError: the device does not exist, or memory does not suffice.
            WeightsError: a checkpoint does not fit its model.
            OSError: the disk refuses; what is finished is kept.
        """
        from tqdm.contrib.logging import logging_redirect_tqdm

        from opensora.cli.worker import Worker

        task = self.task()
        if not task.batches:
            return
        worker = Worker(task)
        # What the writer logs comes while a bar of the next batch is shown, and goes above it.
        with logging_redirect_tqdm(), BackgroundWriter() as writer:
            for batch in task.batches:
                self.start(task.due(batch))
                writer.begin([partial(self._write_and_enter, write) for write in worker.make(batch)])
        if worker.memory_line is not None:
            logger.info(worker.memory_line)

    def _write_and_enter(self, write: Callable[[], Made | NotMade]) -> None:
        from opensora.cli.worker import NotMade

        made = write()
        if isinstance(made, NotMade):
            self.fail(made.sample.stem, made.why)
            return
        traces = made.traces
        result = SampleResult(
            prompt=made.sample.prompt,
            video=made.video,
            num_steps=_num_steps(made.sample),
            seconds=made.seconds,
            trace=traces[0],
            risk=made.risk,
            files=tuple(made.files),
            later_traces=tuple(trace for trace in traces[1:] if trace is not None),
        )
        self.finish(made.sample, result)

    def start(self, stems: Sequence[str]) -> None:
        """These samples are being made now."""
        self.begun = True
        self.ledger.start(stems)

    def finish(self, sample: PlannedSample, result: SampleResult) -> None:
        """Enter a sample whose files are written into the ledger, and say so."""
        self.ledger.finish(sample.stem, result.files, result.seconds)
        self.results[sample.stem] = result
        self.pending.discard(sample.stem)
        logger.info("wrote %s", result.video)
        for trace in (result.trace, *result.later_traces):
            for surprise in [] if trace is None else surprises(trace, sample.config.cache):
                logger.warning("WARNING %s: %s", result.video.name, surprise)

    def fail(self, stem: str, why: str) -> None:
        """Enter a sample that cannot be made."""
        self.pending.discard(stem)
        self.failed[stem] = str(why)
        self.ledger.fail(stem, str(why))
        logger.warning("WARNING %s cannot be made: %s", stem, why)


def sample_numbers(samples: Sequence[PlannedSample]) -> dict[str, int]:
    """The place of every sample in a run, from 1, by its stem."""
    return {sample.stem: number for number, sample in enumerate(samples, start=1)}


def read_result(folder: Path, sample: PlannedSample, wanted: Sequence[str]) -> SampleResult | None:
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
