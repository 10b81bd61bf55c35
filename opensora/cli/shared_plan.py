"""What rank 0 tells the other processes about a run, beside what they have read themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opensora.acceleration.mesh import MeshShape
from opensora.acceleration.processes import Processes
from opensora.cli.command import Prepared
from opensora.cli.identity import weight_fingerprints
from opensora.cli.session import sample_numbers
from opensora.cli.worker import Task
from opensora.errors import ConfigError, WeightsError
from opensora.weights.download import download_missing


def plan_of(task: Task, shape: MeshShape) -> dict[str, Any]:
    """A task and the arrangement of the processes, as JSON values."""
    return {
        "shape": vars(shape),
        "batches": [[sample.stem for sample in batch] for batch in task.batches],
        "pending": sorted(task.pending),
        "texts": dict(task.texts),
        "fingerprints": dict(task.fingerprints),
        "folder": str(task.folder.resolve()),
    }


def read_plan(plan: Mapping[str, Any], prepared: Prepared, processes: Processes) -> Task:
    """The task, once it is clear that this process has the folder and the weights of rank 0.

    Raises:
        ConfigError: it has not.
        WeightsError: a download failed.
    """
    folder = Path(plan["folder"])
    if not (folder / "manifest.json").is_file():
        raise ConfigError(
            f"{processes.launch.name} does not see the output folder {folder} of rank 0; all machines need one that "
            "they share, choose it with --save-dir"
        )
    # On another machine than rank 0's weights may have to be downloaded, by one process.
    if processes.launch.local_rank:
        processes.member.wait(f"weights of {processes.launch.node}")
    weights = download_missing(prepared.weights)
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
