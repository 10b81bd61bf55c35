"""What the launcher (torchrun, or SLURM's srun with the same variables) says about this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from opensora.errors import ConfigError

_NEEDED = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # to meet, where there are several


@dataclass(frozen=True)
class Launch:
    """One process among ``world_size``.

    Attributes:
        rank: its number, counted over all machines.
        local_rank: its number on its machine; it takes the GPU of this number.
        node: what the processes of one machine (one torchrun agent) have in common.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: str = "0"

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    @property
    def name(self) -> str:
        """Of this process, for messages."""
        return f"rank {self.rank} (host {socket.gethostname()}, process {os.getpid()})"


def read_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """The launch that the environment describes; a process that no launcher started is alone.

    Raises:
        ConfigError: the variables contradict each other, are no numbers, or some are missing.
    """
    environment = os.environ if environment is None else environment
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return Launch()
    values = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        text = environment.get(name, environment["RANK"])
        if not text.isdigit():
            raise ConfigError(f"the environment has {name}='{text}', which is no number; start with torchrun")
        values[name] = int(text)
    if values["WORLD_SIZE"] < 1 or values["RANK"] >= values["WORLD_SIZE"]:
        raise ConfigError(
            f"the environment has RANK={values['RANK']} and WORLD_SIZE={values['WORLD_SIZE']}, which do not go "
            "together; start with torchrun"
        )
    missing = [name for name in _NEEDED if name not in environment] if values["WORLD_SIZE"] > 1 else []
    if missing:
        raise ConfigError(f"the environment has WORLD_SIZE, but no {missing[0]}; start with torchrun, which sets both")
    node = environment.get("GROUP_RANK") or environment.get("SLURM_NODEID") or socket.gethostname()
    return Launch(values["RANK"], values["WORLD_SIZE"], values["LOCAL_RANK"], node)
