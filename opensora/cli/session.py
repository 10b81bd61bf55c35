"""One run of the sampling command in its output folder: what is due, what became of it, and the closing report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from opensora.cli.drafts import final_command, write_overview, write_sheets
from opensora.cli.identity import config_hash, plain_config, sample_identity, weight_fingerprints
from opensora.cli.ledger import ERROR, INTERRUPTED, Ledger
from opensora.cli.plan import Plan, Result, Sample, distinct_configs
from opensora.cli.records import read_result, results_table, versions, wanted_files
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError, one_line
from opensora.files import find_path, make_output_folder
from opensora.prompts.chat import ChatEndpoint
from opensora.prompts.files import is_stream
from opensora.prompts.refine import PromptRefiner, api_key_from_env
from opensora.weights.download import download_missing

logger = logging.getLogger(__name__)


def output_folder(config: SampleConfig) -> Path:
    """Return `save_dir` or its subfolder named by date and time; for drafts and finals, a subfolder of that."""
    folder = Path(config.save_dir)
    if config.logdate_dir:
        folder /= time.strftime("%Y-%m-%d_%H-%M-%S")
    if config.draft:
        return folder / "drafts"
    return folder / "final" if config.final else folder


@contextmanager
def open_session(plan: Plan) -> Iterator[Session]:
    """Download what is missing and open the ledger of the output folder, for as long as the block lasts.

    Raises:
        ConfigError: the folder cannot be written to, or belongs to a run that is not over.
        WeightsError: a download failed.
    """
    ledger = Ledger(make_output_folder(output_folder(plan.config)))
    try:
        plan.folder = ledger.folder
        plan.weights = download_missing(plan.weights)
        plan.fingerprints = weight_fingerprints(plan.weights)
        yield Session(plan, ledger)
    finally:
        ledger.close()


class Session:
    """A plan and the ledger of its output folder, which is kept up to date while samples are made.

    Making a session finds out which samples are finished and which are due.

    Attributes:
        begun: whether any sample has been started.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.plan = plan
        self.ledger = ledger
        self.begun = False
        self._config_hashes = {id(config): config_hash(config) for config in distinct_configs(plan.samples)}
        resampled = ledger.resampled() if plan.config.resample else None
        for batch in plan.batches:
            for sample in batch:
                sample.identity = sample_identity(sample, self._hash_of(sample), plan.fingerprints, batch)
                may_stay = resampled is None or sample.stem in resampled
                wanted = wanted_files(sample.stem, sample.config)
                if may_stay and ledger.is_done(sample.stem, sample.identity, wanted):
                    sample.result = read_result(ledger.folder, sample)
                sample.is_due = sample.result is None

    @property
    def finished(self) -> list[Sample]:
        """Samples with a result, including those of earlier runs."""
        return [sample for sample in self.plan.samples if sample.result is not None]

    @property
    def failed(self) -> list[Sample]:
        """Samples with a problem."""
        return [sample for sample in self.plan.samples if sample.problem is not None]

    @property
    def outcome(self) -> str:
        """The outcome of a run that was not cut short, for the ledger."""
        return f"{len(self.failed)} failed" if self.failed else "done"

    def announce(self) -> None:
        """Log how many samples are finished already."""
        count, done = len(self.plan.samples), len(self.finished)
        if done == count:
            what, them = (f"all {count} samples are", "them") if count > 1 else ("it is", "it")
            logger.info("%s in %s already; --resample makes %s again", what, self.ledger.folder, them)
        elif done:
            logger.info("%d of %d samples are in %s already", done, count, self.ledger.folder)

    def begin(self, command: Sequence[str]) -> None:
        """Enter the run and its samples into the ledger; samples with a problem have failed already.

        Raises:
            ConfigError: a sample would replace a file that one is made from.
        """
        config, ledger = self.plan.config, self.ledger
        self._keep_sources()
        about = {"config_hash": config_hash(config), "config": plain_config(config)}
        ledger.begin_run(command=list(command), versions=versions(), resample=config.resample, **about)
        for sample in self.plan.samples:
            if sample.problem is not None:
                ledger.note_problem(sample)
                logger.warning("WARNING %s cannot be made: %s", sample.stem, sample.problem)
            elif sample.is_due:
                ledger.plan(sample, self._hash_of(sample), wanted_files(sample.stem, sample.config))
            elif config.resample:
                ledger.keep(sample.stem)  # counts as made by this command, if it is cut short
        ledger.save()

    def _keep_sources(self) -> None:
        """Refuse to move away what samples are made from.

        Raises:
            ConfigError: a reference, or the trace that is replayed, is in the way of a sample.
        """
        due = [sample for sample in self.plan.samples if sample.problem is None and sample.is_due]
        sources = {str(info.path) for sample in due for info in sample.references}
        sources |= {sample.config.replay for sample in due if sample.config.replay is not None}
        resolved = {(find_path(source) or Path(source)).resolve(): source for source in sources}
        for sample in due if sources else ():
            wanted = wanted_files(sample.stem, sample.config)
            for place in self.ledger.in_the_way(sample, wanted):
                for path, source in resolved.items():
                    if path.is_relative_to(place.resolve()):
                        raise ConfigError(
                            f"{source} is what a video is to be made from, and {sample.stem} would take its place; "
                            "choose another folder with --save-dir"
                        )

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Record in the ledger how the run within the block ends, whatever ends it."""
        outcome = INTERRUPTED
        try:
            yield
            outcome = self.outcome
        except Exception as error:
            outcome = f"{ERROR}{error}"
            raise
        finally:
            self.ledger.end_run(outcome)

    def refine(self) -> None:
        """Have a language model rewrite the prompts that are due, where the config asks for it; set `refined`.

        An answer from an earlier run is used again, so that a continued run makes the same videos. A prompt that cannot
        be refined stays as it is, and the log says why.
        """
        config = self.plan.config
        if not config.llm_refine:
            return
        refiner = PromptRefiner(ChatEndpoint(config.llm_endpoint, config.llm_model, api_key_from_env()))
        asked: dict[str, str | None] = {}
        for sample in (sample for batch in self.plan.due_batches for sample in batch):
            entry = self.ledger.get(sample.stem)
            if entry is not None and entry.refined is not None:
                sample.refined = entry.refined
                continue
            if sample.prompt not in asked:
                asked[sample.prompt] = None if refiner.gave_up else _ask(refiner, sample.prompt)
            sample.refined = asked[sample.prompt]
            if entry is not None and sample.is_due:  # asked again, the model might answer otherwise
                changes = {"unrefined": True} if sample.refined is None else {"refined": sample.refined}
                self.ledger.note(sample.stem, sync=True, **changes)

    def start(self, batch: Sequence[Sample]) -> None:
        """Record that the due samples of a batch are being made now."""
        self.begun = True
        self.ledger.start(sample.stem for sample in batch if sample.is_due)

    def finish(self, sample: Sample, result: Result, files: Sequence[Path]) -> None:
        """Record that the files of a sample are written, and log it."""
        self.ledger.finish(sample.stem, files, result.seconds)
        sample.result, sample.is_due = result, False
        logger.info("wrote %s", result.video)
        for surprise in result.surprises:
            logger.warning("WARNING %s: %s", result.video.name, surprise)

    def fail(self, sample: Sample, why: str) -> None:
        """Record that a sample cannot be made, and log why."""
        sample.problem, sample.is_due = why, False
        self.ledger.fail(sample.stem, why)
        logger.warning("WARNING %s cannot be made: %s", sample.stem, why)

    def report(self, arguments: Sequence[str]) -> None:
        """Print the table of finished samples and, for drafts, what to do next; repeat failures at the end."""
        finished, failed, config = self.finished, self.failed, self.plan.config
        if finished:
            print(results_table(finished))
        if finished and config.draft:
            sheets = _written("the drafts' sheets", lambda: write_overview(finished))
            is_piped = config.prompt_path is not None and is_stream(config.prompt_path)
            again = ", with the same prompts through the pipe" if is_piped else ""
            print(f"look at {sheets or 'them'}, then render the seeds you like; for the first ones, run{again}\n")
            print(final_command(arguments, finished))
        if finished and config.contact_sheet:
            file = self.ledger.folder / "contact_sheet.png"
            if sheets := _written("the contact sheet", lambda: write_sheets(file, finished)):
                print(f"all of them: {sheets}")
        entries = {sample.stem: self.ledger.get(sample.stem) for sample in finished if sample.config.llm_refine}
        if plain := [stem for stem, entry in entries.items() if entry is not None and entry.unrefined]:
            print(
                f"made from the plain prompt, as it could not be refined (--resample tries again): {', '.join(plain)}"
            )
        if failed:
            print(f"{len(failed)} of {len(self.plan.samples)} samples failed:")
            for sample in failed:
                print(f"  {sample.stem}: {sample.problem}")

    def _hash_of(self, sample: Sample) -> str:
        return self._config_hashes[id(sample.config)]


def _written(what: str, write: Callable[[], Sequence[Path]]) -> str:
    """Write pictures of what is finished and name their files; "" if the disk refuses: the report has more to say."""
    try:
        return ", ".join(map(str, write()))
    except OSError as error:
        logger.warning("WARNING %s cannot be written: %s", what, one_line(error))
        return ""


def _ask(refiner: PromptRefiner, prompt: str) -> str | None:
    """Return the refined prompt; log why and return None if there is none."""
    answer = refiner.refine(prompt)
    if answer.problem is not None:
        logger.warning("WARNING %s; it stays as it is: %s", answer.problem, prompt)
        return None
    logger.info("refined: %s", answer.text)
    return answer.text
