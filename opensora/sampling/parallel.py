"""The sampling command on several processes: rank 0 keeps the ledger and hands out batches, groups make them.

Every process reads the same command line. Before anything is loaded they compare what they understood. Then rank 0
opens the ledger and publishes what is due; each group of processes asks for the next batch when it is done with one,
and its leader writes the files and reports them. So the manifest has what is finished, whichever process dies.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opensora.acceleration.launch import Launch
from opensora.acceleration.mesh import MeshShape, choose_mesh
from opensora.acceleration.processes import Processes
from opensora.acceleration.video_group import VideoGroup
from opensora.config.kinds import kind_of
from opensora.config.schema import SampleConfig
from opensora.memory.shapes import read_shapes
from opensora.models.text_encoder.embedding_cache import cache_folder
from opensora.sampling.agreement import agreed
from opensora.sampling.command import Prepared, announce, check_machine, report
from opensora.sampling.records import wanted_files
from opensora.sampling.session import Session, read_result, sample_numbers
from opensora.sampling.worker import NotMade, Task, Worker, encode_text
from opensora.utils.errors import ConfigError, WeightsError, message_for_the_user, one_line

logger = logging.getLogger(__name__)

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED = 0, 1, 2
_PLAN = "plan"
_FILES_SECONDS = 40.0  # that a file of another machine may take to be seen here
_NEWS_SECONDS = 10.0  # that the news of a death may take to arrive, after a connection broke


def sample_in_parallel(launch: Launch, read: Callable[[], Prepared], arguments: Sequence[str]) -> int:
    """This process' part of a run; the exit code.

    Args:
        read: reads and checks the command line.
        arguments: those of the command line, for the ledger.

    Raises:
        ConfigError, WeightsError, CheckpointError, OSError: on the process that cannot go on; the others end with it.
    """
    processes = Processes(launch)
    try:
        prepared = agreed(processes, read)
        if prepared is None:  # rank 0 says why
            processes.close()
            return EXIT_REFUSED
        code = _lead(processes, prepared, arguments) if launch.rank == 0 else _follow(processes, prepared)
    except KeyboardInterrupt:
        processes.member.fail("it was interrupted")
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and message_for_the_user(error) is None:
            # Another process may have died, of which a broken connection was noticed here first.
            processes.member.wait_for_the_end(_NEWS_SECONDS)
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
            processes.coordinator.publish(_PLAN, _plan(task, shape))
            _work(processes, task, shape)
            processes.coordinator.wait_for_goodbyes()
            outcome = f"{len(session.failed)} failed" if session.failed else "done"
        except Exception as error:
            outcome = f"error: {error}"
            raise
        finally:
            processes.before_end = lambda reason: None
            session.ledger.end_run(outcome)
            report(session, arguments)
        return EXIT_FAILED if session.failed else EXIT_DONE


def _follow(processes: Processes, prepared: Prepared) -> int:
    """Any other rank: do what rank 0 plans."""
    plan = processes.member.wait(_PLAN)
    if plan is not None:
        shape = MeshShape(**plan["shape"])
        _work(processes, _read_plan(plan, prepared, processes), shape)
    return EXIT_DONE


def check_device_of_all(config: SampleConfig) -> None:
    """Refuse a device that processes cannot share.

    Raises:
        ConfigError: says what to do instead.
    """
    import torch

    if config.device is None:
        return
    device = torch.device(config.device)
    if device.index is not None:
        raise ConfigError(
            f"device '{config.device}' is one GPU, but each process takes one of its own; leave --device out, and "
            "choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cpu" and torch.cuda.is_available():
        raise ConfigError(
            "processes on the CPU of a machine with GPUs would still exchange over these; leave --device out and hide "
            "them with CUDA_VISIBLE_DEVICES="
        )


def mesh_of(session: Session, world_size: int) -> MeshShape:
    """The arrangement of the processes for what is due.

    Raises:
        ConfigError: what the config asks for cannot be.
    """
    config = session.config
    due = [sample.config for sample in session.samples if sample.stem in session.pending]
    sizes = []
    for chosen in dict.fromkeys(due):
        shapes = read_shapes(session.weights.applied_to(chosen))
        frames, height, width = shapes.latent_size(chosen)
        rows, columns = shapes.patch_size
        sizes.append((frames, -(-height // rows) * -(-width // columns), shapes.rows_per_video(chosen)))
    splits = kind_of(config.model.type).splits_frames
    if not splits and (config.sequence_parallel or 1) > 1:
        raise ConfigError(
            f"sequence_parallel={config.sequence_parallel} does not work with {kind_of(config.model.type).name}, whose "
            "transformer is diffusers' own; leave it out, and use guidance_parallel=2 or several prompts"
        )
    return choose_mesh(
        world_size,
        session.num_due_batches,
        config.guidance_parallel,
        config.sequence_parallel,
        max_guidance=min(rows for _, _, rows in sizes),
        latent_frames=min(frames for frames, _, _ in sizes) if splits else 1,
        tokens_per_frame=min(tokens for _, tokens, _ in sizes) if splits else 1,
    )


class Handout:
    """Rank 0's answers: which batch a group makes next, and the ledger's entries about what it made."""

    def __init__(self, session: Session, task: Task) -> None:
        self._session = session
        self._task = task
        self._next: Iterator[int] = iter(range(len(task.batches)))
        self._given: dict[tuple[int, int], int | None] = {}
        self._samples = {sample.stem: sample for sample in task.samples}
        self.handlers: dict[str, Callable[[int, Any], Any]] = {
            "next": self._next_batch,
            "made": self._made,
            "not made": self._not_made,
        }

    def _next_batch(self, rank: int, value: Sequence[int]) -> int | None:
        """The batch that a group makes in one of its turns, the same for all its processes; None after the last one."""
        group, turn = value
        if (group, turn) not in self._given:
            number = next(self._next, None)
            if number is not None:
                self._session.start(self._task.due(self._task.batches[number]))
            self._given[group, turn] = number
        return self._given[group, turn]

    def _made(self, rank: int, stem: str) -> None:
        sample, folder = self._samples[stem], self._task.folder
        wanted = wanted_files(stem, sample.config)
        there = _are_there(folder, wanted)
        result = read_result(folder, sample, wanted) if there else None
        if result is None:
            self._session.fail(stem, f"rank {rank} wrote files that rank 0 cannot read in {folder}")
        else:
            self._session.finish(sample, result)

    def _not_made(self, rank: int, value: Sequence[str]) -> None:
        self._session.fail(*value)


def _are_there(folder: Path, names: Sequence[str]) -> bool:
    """Whether files that another machine has written are seen here; network file systems take a while to tell."""
    deadline = time.monotonic() + _FILES_SECONDS
    while not set(names) <= set(os.listdir(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _work(processes: Processes, task: Task, shape: MeshShape) -> None:
    """Make batches until there are none left."""
    launch, member = processes.launch, processes.member
    group = processes.arrange(shape)
    if cache_folder(task.config.text_cache) is not None:
        # One process of a machine loads the text encoder, and the others find what it said on disk.
        if launch.local_rank == 0:
            encode_text(task, progress=launch.rank == 0)
            member.ask("publish", f"text of {launch.node}")
        else:
            member.wait(f"text of {launch.node}")
    worker = None
    for batch in _batches(processes, task, group):
        worker = worker or Worker(task, group, progress=launch.rank == 0)
        for made in worker.make(batch):
            if isinstance(made, NotMade):
                member.ask("not made", [made.sample.stem, str(made.why)])
            else:
                member.ask("made", made.sample.stem)
    if worker is not None and worker.memory_line is not None:
        logger.info(worker.memory_line)


def _batches(processes: Processes, task: Task, group: VideoGroup) -> Iterator[Sequence[Any]]:
    turn = 0
    while (number := processes.member.ask("next", [group.index, turn])) is not None:
        yield task.batches[number]
        turn += 1


def _publisher(processes: Processes) -> Callable[[int, str], None]:
    return lambda rank, name: processes.coordinator.publish(name, True)


def _plan(task: Task, shape: MeshShape) -> dict[str, Any]:
    """What the other processes have to know of a task, as JSON values; the rest they have read themselves."""
    return {
        "shape": vars(shape),
        "batches": [[sample.stem for sample in batch] for batch in task.batches],
        "pending": sorted(task.pending),
        "texts": dict(task.texts),
        "fingerprints": dict(task.fingerprints),
        "folder": str(task.folder.resolve()),
    }


def _read_plan(plan: Mapping[str, Any], prepared: Prepared, processes: Processes) -> Task:
    """The task, once it is clear that this process has the folder and the weights of rank 0.

    Raises:
        ConfigError: it has not.
        WeightsError: a download failed.
    """
    from opensora.sampling.identity import weight_fingerprints

    folder = Path(plan["folder"])
    if not (folder / "manifest.json").is_file():
        raise ConfigError(
            f"{processes.launch.name} does not see the output folder {folder} of rank 0; all machines need one that "
            "they share, choose it with --save-dir"
        )
    # On another machine than rank 0's weights may have to be downloaded, by one process.
    if processes.launch.local_rank:
        processes.member.wait(f"weights of {processes.launch.node}")
    weights = prepared.weights.downloaded()
    if not processes.launch.local_rank:
        processes.member.ask("publish", f"weights of {processes.launch.node}")
    fingerprints = weight_fingerprints(weights)
    for piece, expected in plan["fingerprints"].items():
        if fingerprints[piece] != expected:
            raise WeightsError(
                f"the {piece} weights of {processes.launch.name} in {getattr(weights, piece)} are not those of rank 0"
            )
    by_stem = {sample.stem: sample for sample in prepared.samples}
    return Task(
        config=prepared.config,
        weights=weights,
        fingerprints=fingerprints,
        batches=[[by_stem[stem] for stem in batch] for batch in plan["batches"]],
        pending=frozenset(plan["pending"]),
        texts=plan["texts"],
        numbers=sample_numbers(prepared.samples),
        folder=folder,
    )
