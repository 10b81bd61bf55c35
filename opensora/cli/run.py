"""The sampling command in one process, and what is checked on every machine before models are loaded."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import partial

from tqdm.contrib.logging import logging_redirect_tqdm

from opensora.cli.plan import Plan, Sample, distinct_configs
from opensora.cli.session import Session
from opensora.cli.worker import Load, Worker, Write
from opensora.cli.writing import BackgroundWriter
from opensora.config.target import check_calibrated_model
from opensora.device import DTYPES, check_compiler, check_device
from opensora.errors import ConfigError, one_line
from opensora.load_models import check_models

logger = logging.getLogger(__name__)


def run(session: Session, arguments: Sequence[str], load: Load | None = None) -> None:
    """Make what is due, and record in the ledger how the run ended.

    The files of a batch are written and entered into the ledger while the next one is sampled. If an error or an
    interrupt ends the run, what has been sampled by then is written and entered, too.

    Args:
        arguments: the command line, for the ledger.
        load: returns the pipeline, as for `Worker`.

    Raises:
        ConfigError, WeightsError: the models cannot be run on this machine.
        OSError: the disk refuses; what is finished is kept.
    """
    due = session.plan.due_batches
    if due:
        check_machine(session.plan)
    session.begin(arguments)
    with session.ending():
        if not due:
            return
        session.refine()
        worker = Worker(session.plan, load=load)
        # The writer logs while the next batch shows its progress bar; its lines go above the bar.
        with logging_redirect_tqdm(), BackgroundWriter() as writer:
            for batch in due:
                session.start(batch)
                writer.begin([partial(_write_and_enter, session, *job) for job in worker.sample(batch)])
        if worker.memory_line is not None:
            logger.debug(worker.memory_line)  # it is in the files of the samples, too


def _write_and_enter(session: Session, sample: Sample, write: Write | str) -> None:
    if isinstance(write, str):
        session.fail(sample, write)
    else:
        session.finish(sample, *write())


def check_machine(plan: Plan) -> None:
    """Refuse, before the models are loaded, a plan that this machine cannot run.

    Raises:
        ConfigError: no such device, no compiler, no PyAV, or models that do not belong together.
        WeightsError: a checkpoint does not fit its model.
    """
    due = [sample for sample in plan.samples if sample.is_due]
    check_pyav(due)
    config = plan.weights.applied_to(plan.config)
    device = check_device(config.device, DTYPES[config.dtype])
    if config.compile:
        check_compiler(device)
    for chosen in distinct_configs(due):
        check_calibrated_model(plan.weights.applied_to(chosen))
    check_models(config)


def check_pyav(samples: Sequence[Sample]) -> None:
    """Refuse to sample videos that could not be written; images need no encoder.

    Raises:
        ConfigError: PyAV cannot be imported.
    """
    video = next((sample.stem for sample in samples if sample.config.num_frames > 1), None)
    if video is None:
        return
    try:
        importlib.import_module("av")
    except ImportError as error:
        raise ConfigError(
            f"{video}.mp4 cannot be written without PyAV, and that cannot be imported ({one_line(error)}); install it "
            "with pip install av"
        ) from error
