"""The steps of the sampling command: read and check everything, run what is missing, report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensora.cli.drafts import final_command, write_overview
from opensora.cli.plan import PlannedSample, plan_samples
from opensora.cli.refining import check_endpoint
from opensora.cli.result import SampleResult, results_table
from opensora.cli.session import Session, output_folder
from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError, one_line
from opensora.files import make_output_folder
from opensora.models.text_encoder import check_text_options
from opensora.prompts.run_prompts import read_prompts
from opensora.weights import WeightPaths, locate_weights
from opensora.weights.download import download_missing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run whose config, prompts, references and weights were found good."""

    config: SampleConfig
    samples: Sequence[PlannedSample]
    weights: WeightPaths

    @contextmanager
    def open_session(self) -> Iterator[Session]:
        """Download what is missing and open the ledger of the output folder, for as long as the block lasts.

        Raises:
            ConfigError: the folder cannot be written to, or belongs to a run that is not over.
            WeightsError: a download failed.
        """
        from opensora.cli.ledger import Ledger

        folder = make_output_folder(output_folder(self.config))
        ledger = Ledger(folder)
        try:
            yield Session(self.config, self.samples, download_missing(self.weights), ledger)
        finally:
            ledger.close()


def prepare(config_path: str, flags: Mapping[str, Any], cfg_options: Mapping[str, Any]) -> Prepared:
    """Read and check everything that needs no torch.

    Raises:
        ConfigError: something cannot be used, or no prompt can be sampled.
        WeightsError: weights are missing, unreachable or damaged.
    """
    flags = dict(flags)
    sidecar = flags.pop("from_sidecar", None)
    if sidecar is not None:
        from opensora.cli.sidecar import read_sidecar

        config, samples = read_sidecar(sidecar, flags, cfg_options)
    else:
        config = load_config(config_path, flags, cfg_options)

        def line_config(overrides: Mapping[str, Any], where: str) -> SampleConfig:
            return load_config(config_path, flags, cfg_options, overrides, where)

        samples = plan_samples(config, read_prompts(config), line_config)
    for chosen in {id(sample.config): sample.config for sample in samples}.values():
        check_endpoint(chosen)
    check_text_options(config)
    return Prepared(config, samples, locate_weights(config))


def run(session: Session, arguments: Sequence[str]) -> None:
    """Sample what is missing in the output folder, and note in the ledger how that ended.

    Raises:
        ConfigError, WeightsError: the models cannot be run on this machine.
        OSError: the disk refuses; what is finished is kept.
    """
    announce(session)
    if not session.pending and not any(sample.problem for sample in session.samples):
        return
    if session.pending:
        check_machine(session)
    session.begin(arguments)
    outcome = "interrupted"
    try:
        session.sample()
        outcome = f"{len(session.failed)} failed" if session.failed else "done"
    except Exception as error:
        outcome = f"error: {error}"
        raise
    finally:
        session.ledger.end_run(outcome)


def check_machine(session: Session, processes: int = 1) -> None:
    """Refuse what this machine cannot run before the models are loaded.

    Args:
        processes: that share a video.

    Raises:
        ConfigError: no such device, no compiler, no PyAV, too little memory, or models that do not belong together.
        WeightsError: a checkpoint does not fit its model.
    """
    from opensora.config.target import check_calibrated_model
    from opensora.device import DTYPES, check_compiler, check_device
    from opensora.load_models import check_models
    from opensora.memory.report import check_cache_memory

    pending = [sample for sample in session.samples if sample.stem in session.pending]
    check_pyav(pending)
    config = session.weights.applied_to(session.config)
    device = check_device(config.device, DTYPES[config.dtype])
    if config.compile:
        check_compiler(device)
    for chosen in {id(sample.config): sample.config for sample in pending}.values():
        check_calibrated_model(session.weights.applied_to(chosen))
    check_models(config)
    check_cache_memory(config, len(session.samples), device, processes)


def check_pyav(samples: Sequence[PlannedSample]) -> None:
    """Refuse to sample videos that could not be written; images need no encoder.

    Raises:
        ConfigError: PyAV cannot be imported.
    """
    videos = [sample for sample in samples if sample.config.num_frames > 1]
    if not videos:
        return
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{videos[0].stem}.mp4 cannot be written without PyAV, and that cannot be imported ({one_line(error)}); "
            "install it with pip install av"
        ) from error


def report(session: Session, arguments: Sequence[str]) -> None:
    """Print the table of finished samples and, of drafts, what to do next; failures are repeated at the end."""
    results = [session.results[sample.stem] for sample in session.samples if sample.stem in session.results]
    if results:
        print(results_table(results))
    if results and session.config.draft:
        sheets = ", ".join(map(str, write_overview(results)))
        print(f"look at {sheets}, then render what you choose; the drafts of least risk would be\n")
        print(final_command(arguments, results))
    if results and session.config.contact_sheet:
        print(f"all of them: {_write_sheet(session, results)}")
    plain = [sample.stem for sample in session.samples if _stayed_plain(session, sample.stem)]
    if plain:
        print(f"made of the plain prompt, as it could not be refined (--resample tries again): {', '.join(plain)}")
    if session.failed:
        print(f"{len(session.failed)} of {len(session.samples)} samples failed:")
        for stem, why in session.failed.items():
            print(f"  {stem}: {why}")


def _stayed_plain(session: Session, stem: str) -> bool:
    entry = session.ledger.entries.get(stem)
    return stem in session.results and entry is not None and entry.unrefined


def announce(session: Session) -> None:
    """Say what is finished already."""
    count, done = len(session.samples), len(session.results)
    if done == count:
        what, them = (f"all {count} samples are", "them") if count > 1 else ("it is", "it")
        logger.info("%s in %s already; --resample makes %s again", what, session.ledger.folder, them)
    elif done:
        logger.info("%d of %d samples are in %s already", done, count, session.ledger.folder)


def _write_sheet(session: Session, results: Sequence[SampleResult]) -> Path:
    from opensora.cli.run_sheet import write_run_sheet

    return write_run_sheet(session.ledger.folder / "contact_sheet.png", results)
