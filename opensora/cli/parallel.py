"""The sampling command on several processes: rank 0 keeps the ledger and hands out batches, groups make them.

Every process reads the same command line. Before anything is loaded they compare what they understood. Then rank 0
opens the ledger and publishes what is due; each group of processes asks for the next batch when it has sampled one,
and its leader writes the files and reports them while the next batch is sampled. So the ledger knows all finished
samples, whichever process dies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from opensora.acceleration.coordinator import Member
from opensora.acceleration.launch import Launch, MeshShape, choose_mesh
from opensora.acceleration.processes import Processes
from opensora.acceleration.video_group import VideoGroup
from opensora.cli.identity import config_hash, plain_config, weight_fingerprints
from opensora.cli.ledger import ERROR, MANIFEST
from opensora.cli.plan import Plan, Sample, distinct_configs
from opensora.cli.records import read_result, wanted_files
from opensora.cli.run import check_machine, check_pyav
from opensora.cli.session import Session, open_session
from opensora.cli.worker import Worker, Write, encode_text
from opensora.cli.writing import BackgroundWriter
from opensora.config.model_families import family_of
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError, WeightsError, message_for_the_user, one_line, shortened
from opensora.memory.shapes import read_shapes
from opensora.models.text_encoder.embedding_cache import cache_folder
from opensora.prompts.run_prompts import stream_text
from opensora.weights.download import download_missing

logger = logging.getLogger(__name__)

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED = 0, 1, 2
FILES_SECONDS = 40.0  # longest wait until a file that another machine wrote is visible here
_PLAN = "plan"
_NEWS_SECONDS = 10.0  # longest wait for the news of a death, after a connection broke
# Entries of a config that may differ: each machine has its own paths.
_OWN = frozenset({"path", "weights_dir", "text_cache", "save_dir", "verbose"})


def sample_in_parallel(
    launch: Launch, read: Callable[[str | None], Plan], arguments: Sequence[str], prompt_path: str | None = None
) -> int:
    """Do this process' part of a run and return the exit code.

    Args:
        read: reads and checks the command line, given the text of a prompt file that can be read only once.
        arguments: the command line, for the ledger.
        prompt_path: its `--prompt-path`; only rank 0 reads it if it is standard input or a pipe.

    Raises:
        ConfigError, WeightsError, OSError: on the process that cannot go on; the others end with it.
    """
    processes = Processes(launch)
    text = processes.gather(_stream_text(launch, prompt_path))[0]

    def read_with_text() -> Plan:
        if isinstance(text, ConfigError):
            raise text
        return read(text)

    plan = agreed(processes, read_with_text)
    if plan is None:  # rank 0 says why
        return EXIT_REFUSED
    try:
        code = _lead(processes, plan, arguments) if launch.rank == 0 else _follow(processes, plan)
    except KeyboardInterrupt:
        processes.member.fail("it was interrupted")
        raise
    except Exception as error:
        processes.member.fail(message_for_the_user(error) or f"{type(error).__name__}: {one_line(error)}")
        raise
    processes.close()
    return code


def _stream_text(launch: Launch, prompt_path: str | None) -> str | ConfigError | None:
    """Return, on rank 0, the text of a stream of prompts, or the error about it; None elsewhere and for a file."""
    try:
        return stream_text(prompt_path) if launch.rank == 0 else None
    except ConfigError as error:
        return error


def agreed(processes: Processes, read: Callable[[], Plan]) -> Plan | None:
    """Return the plan that `read` returns, if it is the same on all processes.

    Returns:
        None if it is not, on all processes but rank 0, which reports why. The run then ends in good order.

    Raises:
        ConfigError: on rank 0, if a process cannot read its command line, or with the first entry that differs.
    """
    plan, problem = None, None
    try:
        plan = read()
    except (ConfigError, WeightsError, OSError) as error:
        problem = str(error)
    entries = {} if plan is None else _entries(plan)
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    are_alike = len(set(processes.gather((problem, digest)))) == 1
    if are_alike and problem is None:
        return plan
    refusal = difference(processes.gather((processes.launch.name, problem, entries)))  # only now is everything sent
    processes.close()
    if processes.launch.rank:
        return None
    raise ConfigError(refusal)


def difference(understood: Sequence[tuple[str, str | None, Mapping[str, str]]]) -> str:
    """Say in one sentence why processes that understood different things cannot go on together.

    Args:
        understood: for each process, its name, why it cannot read its command line (None if it can), and all entries
            and samples as text.
    """
    _, first_problem, first = understood[0]
    for name, problem, _ in understood:
        if problem is not None:
            return problem if problem == first_problem else f"{name}: {problem}"
    name, key, theirs = next(
        (name, key, entries.get(key, "nothing"))
        for name, _, entries in understood
        for key in sorted(first.keys() | entries.keys())
        if first.get(key, "nothing") != entries.get(key, "nothing")
    )
    return (
        f"{name} has {key} {shortened(theirs, 80)} where rank 0 has {shortened(first.get(key, 'nothing'), 80)}; start "
        "all processes with the same command and files"
    )


def _entries(plan: Plan) -> dict[str, str]:
    entries: dict[str, Any] = {name: value for name, value in plain_config(plan.config).items() if name not in _OWN}
    hashes = {id(config): config_hash(config) for config in distinct_configs(plan.samples)}
    for sample in plan.samples:
        about = [sample.prompt, sample.seed, hashes[id(sample.config)], sample.mask_strategy]
        entries[f"sample {sample.stem}"] = [*about, *sample.reference_hashes]
    return {name: json.dumps(value, default=list, sort_keys=True) for name, value in entries.items()}


def _lead(processes: Processes, plan: Plan, arguments: Sequence[str]) -> int:
    """Do rank 0's part: keep the ledger, tell the others what to do, and make videos like them."""
    with open_session(plan) as session:
        session.announce()
        due = session.plan.due_batches
        if not due:
            processes.coordinator.publish(_PLAN, None)
            if session.failed:
                session.begin(arguments)
                session.ledger.end_run(session.outcome)
            session.report(arguments)
            return EXIT_FAILED if session.failed else EXIT_DONE
        check_device_of_all(session.plan.config)
        shape = mesh_of(session.plan, processes.launch.world_size)
        check_machine(session.plan)
        session.begin(arguments)
        try:
            with session.ending():
                session.refine()
                processes.before_end = lambda reason: session.ledger.end_run(f"{ERROR}{reason}")
                publish = {"publish": lambda rank, name: processes.coordinator.publish(name, True)}
                processes.coordinator.handle({**answers(session), **publish})
                batches = "1 batch" if len(due) == 1 else f"{len(due)} batches"
                logger.info("%d processes: %s, %s of videos", shape.world_size, shape, batches)
                processes.coordinator.publish(f"weights of {processes.launch.node}", True)
                processes.coordinator.publish(_PLAN, message_of(session.plan, shape))
                _work(processes, session.plan, shape)
                processes.coordinator.wait_for_goodbyes()
        finally:
            processes.before_end = lambda reason: None  # no earlier: another process may end this one right now
            session.report(arguments)
        return EXIT_FAILED if session.failed else EXIT_DONE


def answers(session: Session) -> dict[str, Callable[[int, Any], Any]]:
    """Return rank 0's handlers: one says which batch a group makes next, others enter what it made into the ledger."""
    due = session.plan.due_batches
    samples = {sample.stem: sample for batch in due for sample in batch}
    numbers = iter(range(len(due)))
    given: dict[tuple[int, int], int | None] = {}

    def next_batch(rank: int, value: Sequence[int]) -> int | None:
        """Return the number of the batch for a group's turn, the same for all of its processes; None after the last."""
        group, turn = value
        if (group, turn) not in given:
            given[group, turn] = number = next(numbers, None)
            if number is not None:
                session.start(due[number])
        return given[group, turn]

    def made(rank: int, stem: str) -> None:
        sample, folder = samples[stem], session.ledger.folder
        wanted = wanted_files(stem, sample.config)
        result = read_result(folder, sample) if _are_there(folder, wanted) else None
        if result is None:
            session.fail(sample, f"rank {rank} wrote files that rank 0 cannot read in {folder}")
        else:
            session.finish(sample, result, [folder / name for name in wanted])

    def not_made(rank: int, value: Sequence[str]) -> None:
        stem, why = value
        session.fail(samples[stem], why)

    return {"next": next_batch, "made": made, "not made": not_made}


def _are_there(folder: Path, names: Sequence[str]) -> bool:
    """Wait up to `FILES_SECONDS` for files that another machine wrote to be visible here; return whether they are."""
    deadline = time.monotonic() + FILES_SECONDS
    while not all((folder / name).exists() for name in names):
        if time.monotonic() > deadline:
            return False
        os.listdir(folder)  # which makes a network file system look again
        time.sleep(0.1)
    return True


def _follow(processes: Processes, plan: Plan) -> int:
    """Do the part of any other rank: make what rank 0 plans."""
    message = processes.member.wait(_PLAN)
    if message is not None:
        receive(message, plan, processes)
        check_pyav([sample for batch in plan.due_batches for sample in batch])  # rank 0 may be on another machine
        _work(processes, plan, MeshShape(**message["shape"]))
    return EXIT_DONE


def message_of(plan: Plan, shape: MeshShape) -> dict[str, Any]:
    """Return as JSON values what rank 0 tells the other processes about a run beyond what they have read themselves."""
    return {
        "shape": vars(shape),
        "due": [sample.stem for sample in plan.samples if sample.is_due],
        "refined": {sample.stem: sample.refined for sample in plan.samples if sample.refined is not None},
        "fingerprints": dict(plan.fingerprints),
        "folder": str(plan.folder.resolve()),
    }


def receive(message: Mapping[str, Any], plan: Plan, processes: Processes) -> None:
    """Enter rank 0's message into the plan, after checking that this process has the folder and weights of rank 0.

    Raises:
        ConfigError: this process does not see the folder of rank 0.
        WeightsError: its weights are not those of rank 0, or a download failed.
    """
    plan.folder = Path(message["folder"])
    if not (plan.folder / MANIFEST).is_file():
        raise ConfigError(
            f"{processes.launch.name} does not see the output folder {plan.folder} of rank 0; all machines need a "
            "shared one; choose it with --save-dir"
        )
    # On a machine other than rank 0's, one process may have to download weights.
    if processes.launch.local_rank:
        processes.member.wait(f"weights of {processes.launch.node}")
    plan.weights = download_missing(plan.weights)
    if not processes.launch.local_rank:
        processes.member.ask("publish", f"weights of {processes.launch.node}")
    plan.fingerprints = weight_fingerprints(plan.weights)
    for piece, expected in message["fingerprints"].items():
        if plan.fingerprints[piece] != expected:
            where = getattr(plan.weights, piece)
            raise WeightsError(f"the {piece} weights of {processes.launch.name} in {where} are not those of rank 0")
    due = set(message["due"])
    for sample in plan.samples:
        sample.is_due = sample.stem in due
        sample.refined = message["refined"].get(sample.stem)


def _work(processes: Processes, plan: Plan, shape: MeshShape) -> None:
    """Make batches until there are none left; if another process dies meanwhile, this process ends, too."""
    try:
        _make_batches(processes, plan, shape)
    except RuntimeError as error:
        if message_for_the_user(error) is None:
            # A broken connection may be noticed here before the news of who died has arrived.
            processes.member.wait_for_the_end(_NEWS_SECONDS)
        raise


def _make_batches(processes: Processes, plan: Plan, shape: MeshShape) -> None:
    launch, member = processes.launch, processes.member
    group = processes.arrange(shape)
    due = plan.due_batches
    text = None
    if cache_folder(plan.config.text_cache) is not None:
        # One process of a machine loads the text encoder, and the others find its features on disk.
        if launch.local_rank == 0:
            text = encode_text(plan, launch.rank == 0, shape.per_video)
            member.ask("publish", f"text of {launch.node}")
        else:
            member.wait(f"text of {launch.node}")
    worker = None
    with logging_redirect_tqdm(), BackgroundWriter() as writer:
        for batch in (due[number] for number in _numbers(member, group)):
            worker = worker or Worker(plan, group, launch.rank == 0, text)
            writer.begin([partial(_write_and_report, member, *job) for job in worker.sample(batch)])
    if worker is not None and worker.memory_line is not None:
        logger.debug(worker.memory_line)


def _numbers(member: Member, group: VideoGroup) -> Iterator[int]:
    turn = 0
    while (number := member.ask("next", [group.index, turn])) is not None:
        yield number
        turn += 1


def _write_and_report(member: Member, sample: Sample, write: Write | str) -> None:
    if isinstance(write, str):
        member.ask("not made", [sample.stem, write])
    else:
        write()
        member.ask("made", sample.stem)


def check_device_of_all(config: SampleConfig) -> None:
    """Refuse a device that processes cannot share.

    Raises:
        ConfigError: says what to do instead.
    """
    if config.device is None:
        return
    device = torch.device(config.device)
    if device.index is not None:
        raise ConfigError(
            f"device '{config.device}' is one GPU, but each process takes its own; leave --device out, and choose GPUs "
            "with CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cpu" and torch.cuda.is_available():
        raise ConfigError(
            "processes on the CPU of a machine with GPUs would still communicate through them; leave --device out and "
            "hide the GPUs with CUDA_VISIBLE_DEVICES="
        )


def mesh_of(plan: Plan, world_size: int) -> MeshShape:
    """Return the arrangement of the processes for the batches that are due.

    Raises:
        ConfigError: the config asks for an arrangement that does not work.
    """
    config = plan.config
    sizes = []
    for chosen in distinct_configs([sample for sample in plan.samples if sample.is_due]):
        shapes = read_shapes(plan.weights.applied_to(chosen))
        sizes.append((shapes.latent_size[0], shapes.tokens_per_frame, shapes.rows_per_video))
    family = family_of(config.model.type)
    if not family.splits_frames and (config.sequence_parallel or 1) > 1:
        raise ConfigError(
            f"sequence_parallel={config.sequence_parallel} does not work with {family.name}, whose transformer "
            "is diffusers' own; leave it out, and use guidance_parallel=2 or several prompts"
        )
    return choose_mesh(
        world_size,
        len(plan.due_batches),
        config.guidance_parallel,
        config.sequence_parallel,
        max_guidance=min(rows for _, _, rows in sizes),
        latent_frames=min(frames for frames, _, _ in sizes) if family.splits_frames else 1,
        tokens_per_frame=min(tokens for _, tokens, _ in sizes) if family.splits_frames else 1,
    )
