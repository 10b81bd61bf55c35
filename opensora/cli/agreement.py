"""Whether all processes of a run understood the same command."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from opensora.cli.identity import config_hash, plain_config
from opensora.errors import ConfigError, WeightsError, shortened

if TYPE_CHECKING:
    from opensora.acceleration.processes import Processes
    from opensora.cli.command import Prepared

# Entries that may differ: each machine has its own paths.
_OWN = frozenset({"path", "weights_dir", "text_cache", "save_dir", "verbose"})


@dataclasses.dataclass(frozen=True)
class Understanding:
    """What a process made of its command line: what is wrong with it, or all entries and samples as text."""

    name: str
    problem: str | None
    entries: Mapping[str, str]


def agreed(processes: Processes, read: Callable[[], Prepared]) -> Prepared | None:
    """What ``read`` gives, if it gives the same on all processes.

    Returns:
        None where it does not, and another process says so. The run is over then, in good order.

    Raises:
        ConfigError: the same on rank 0, with what is wrong, or the first entry that differs and whose it is.
    """
    prepared, problem = None, None
    try:
        prepared = read()
    except (ConfigError, WeightsError, OSError) as error:
        problem = str(error)
    own = Understanding(processes.launch.name, problem, {} if prepared is None else _entries(prepared))
    refusal = compare(processes.gather(own))
    if refusal is None:
        return prepared
    processes.close()
    if processes.launch.rank:
        return None
    raise ConfigError(refusal)


def compare(all_of_them: list[Understanding]) -> str | None:
    """Why the processes cannot go on together, in a sentence; None if they can."""
    first = all_of_them[0]
    for other in all_of_them:
        if other.problem is not None:
            return other.problem if other.problem == first.problem else f"{other.name}: {other.problem}"
    for other in all_of_them[1:]:
        for name in sorted(first.entries.keys() | other.entries.keys()):
            mine, theirs = (side.entries.get(name, "nothing") for side in (first, other))
            if mine != theirs:
                return (
                    f"{other.name} has {name} {shortened(theirs, 80)} where rank 0 has {shortened(mine, 80)}; start "
                    "all processes with the same command and files"
                )
    return None


def _entries(prepared: Prepared) -> dict[str, str]:
    entries: dict[str, Any] = {name: value for name, value in plain_config(prepared.config).items() if name not in _OWN}
    for sample in prepared.samples:
        about = [sample.prompt.text, sample.prompt.seed, config_hash(sample.config), sample.mask_strategy]
        entries[f"sample {sample.stem}"] = [*about, *sample.reference_hashes]
    return {name: json.dumps(value, default=list, sort_keys=True) for name, value in entries.items()}
