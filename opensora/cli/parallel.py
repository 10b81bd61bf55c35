"""The sampling command on several processes: rank 0 keeps the ledger and hands out batches, groups make them.

Every process reads the same command line. Before anything is loaded they compare what they understood. Then rank 0
opens the ledger and publishes what is due; each group of processes asks for the next batch when it has sampled one,
and its leader writes the files and reports them, while the next batch is sampled. So the manifest has what is finished,
whichever process dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from opensora.acceleration.launch import Launch
from opensora.acceleration.member import Member
from opensora.acceleration.mesh import MeshShape
from opensora.acceleration.processes import Processes
from opensora.acceleration.video_group import VideoGroup
from opensora.cli.agreement import agreed
from opensora.cli.arrangement import check_device_of_all, mesh_of
from opensora.cli.command import Prepared, announce, check_machine, check_pyav, report
from opensora.cli.handout import Handout
from opensora.cli.shared_plan import plan_of, read_plan
from opensora.cli.worker import Made, NotMade, Task, Worker, encode_text
from opensora.cli.writing import BackgroundWriter
from opensora.errors import message_for_the_user, one_line
from opensora.models.text_encoder.embedding_cache import cache_folder

logger = logging.getLogger(__name__)

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED = 0, 1, 2
_PLAN = "plan"
_NEWS_SECONDS = 10.0  # that the news of a death may take to arrive, after a connection broke


def sample_in_parallel(launch: Launch, read: Callable[[], Prepared], arguments: Sequence[str]) -> int:
    """This process' part of a run; the exit code.

    Args:
        read: reads and checks the command line.
        arguments: those of the command line, for the ledger.

    Raises:
        ConfigError, WeightsError, OSError: on the process that cannot go on; the others end with it.
    """
    processes = Processes(launch)
    prepared = agreed(processes, read)
    if prepared is None:  # rank 0 says why
        return EXIT_REFUSED
    try:
        code = _lead(processes, prepared, arguments) if launch.rank == 0 else _follow(processes, prepared)
    except KeyboardInterrupt:
        processes.member.fail("it was interrupted")
        raise
    except Exception as error:
        processes.member.fail(message_for_the_user(error) or f"{type(error).__name__}: {one_line(error)}")
        raise
    processes.close()
    return code


def _lead(processes: Processes, prepared: Prepared, arguments: Sequence[str]) -> int:
    """Rank 0: keep the ledger, and take part."""
    with prepared.open_session() as session:
        announce(session)
        if not session.pending:
            processes.coordinator.publish(_PLAN, None)
            if any(sample.problem for sample in session.samples):
                session.begin(arguments)
                session.ledger.end_run(f"{len(session.failed)} failed")
            report(session, arguments)
            return EXIT_FAILED if session.failed else EXIT_DONE
        check_device_of_all(session.config)
        shape = mesh_of(session, processes.launch.world_size)
        check_machine(session, shape.per_video)
        session.begin(arguments)
        outcome = "interrupted"
        try:
            task = session.task()
            handout = Handout(session, task)
            processes.before_end = lambda reason: session.ledger.end_run(f"error: {reason}")
            processes.coordinator.handle({**handout.handlers, "publish": _publisher(processes)})
            count = len(task.batches)
            batches = "1 batch" if count == 1 else f"{count} batches"
            logger.info("%d processes: %s, %s of videos", shape.world_size, shape, batches)
            processes.coordinator.publish(f"weights of {processes.launch.node}", True)
            processes.coordinator.publish(_PLAN, plan_of(task, shape))
            _work(processes, task, shape)
            processes.coordinator.wait_for_goodbyes()
            outcome = f"{len(session.failed)} failed" if session.failed else "done"
        except Exception as error:
            outcome = f"error: {error}"
            raise
        finally:
            session.ledger.end_run(outcome)
            processes.before_end = lambda reason: None  # not before: another process may end this one right now
            report(session, arguments)
        return EXIT_FAILED if session.failed else EXIT_DONE


def _follow(processes: Processes, prepared: Prepared) -> int:
    """Any other rank: do what rank 0 plans."""
    plan = processes.member.wait(_PLAN)
    if plan is not None:
        shape = MeshShape(**plan["shape"])
        task = read_plan(plan, prepared, processes)
        check_pyav(task.samples)  # rank 0 may be on another machine
        _work(processes, task, shape)
    return EXIT_DONE


def _work(processes: Processes, task: Task, shape: MeshShape) -> None:
    """Make batches until there are none left; where another process died meanwhile, this does not return."""
    try:
        _make_batches(processes, task, shape)
    except RuntimeError as error:
        if message_for_the_user(error) is None:
            # A broken connection may be noticed here before the news of who died has arrived.
            processes.member.wait_for_the_end(_NEWS_SECONDS)
        raise


def _make_batches(processes: Processes, task: Task, shape: MeshShape) -> None:
    launch, member = processes.launch, processes.member
    group = processes.arrange(shape)
    text = None
    if cache_folder(task.config.text_cache) is not None:
        # One process of a machine loads the text encoder, and the others find what it said on disk.
        if launch.local_rank == 0:
            text = encode_text(task, launch.rank == 0, shape.per_video)
            member.ask("publish", f"text of {launch.node}")
        else:
            member.wait(f"text of {launch.node}")
    worker = None
    with logging_redirect_tqdm(), BackgroundWriter() as writer:
        for batch in _batches(processes, task, group):
            worker = worker or Worker(task, group, launch.rank == 0, text)
            writer.begin([partial(_write_and_report, member, write) for write in worker.make(batch)])
    if worker is not None and worker.memory_line is not None:
        logger.info(worker.memory_line)


def _write_and_report(member: Member, write: Callable[[], Made | NotMade]) -> None:
    made = write()
    if isinstance(made, NotMade):
        member.ask("not made", [made.sample.stem, str(made.why)])
    else:
        member.ask("made", made.sample.stem)


def _batches(processes: Processes, task: Task, group: VideoGroup) -> Iterator[Sequence[Any]]:
    turn = 0
    while (number := processes.member.ask("next", [group.index, turn])) is not None:
        yield task.batches[number]
        turn += 1


def _publisher(processes: Processes) -> Callable[[int, str], None]:
    return lambda rank, name: processes.coordinator.publish(name, True)
