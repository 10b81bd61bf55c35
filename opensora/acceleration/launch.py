"""What the launcher (torchrun, or SLURM's srun) says about this process, and the mesh that all processes form."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from opensora.errors import ConfigError

GUIDANCE_BRANCHES = 2  # conditional and unconditional
_NEEDED = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # for several processes to find each other


@dataclass(frozen=True)
class Launch:
    """One process among `world_size`.

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
        """Name of this process in messages."""
        return f"rank {self.rank} (host {socket.gethostname()}, process {os.getpid()})"


def read_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Return the launch that the environment describes; a process that no launcher started is alone.

    Raises:
        ConfigError: the variables contradict each other or are not numbers, or some are missing.
    """
    environment = os.environ if environment is None else environment
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return Launch()
    values = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        text = environment.get(name, environment["RANK"])
        if not text.isdigit():
            raise ConfigError(f"the environment has {name}='{text}', which is not a number; start with torchrun")
        values[name] = int(text)
    if values["WORLD_SIZE"] < 1 or values["RANK"] >= values["WORLD_SIZE"]:
        raise ConfigError(
            f"the environment has RANK={values['RANK']} and WORLD_SIZE={values['WORLD_SIZE']}, which contradict each "
            "other; start with torchrun"
        )
    missing = [name for name in _NEEDED if name not in environment] if values["WORLD_SIZE"] > 1 else []
    if missing:
        raise ConfigError(f"the environment has WORLD_SIZE, but no {missing[0]}; start with torchrun, which sets both")
    node = environment.get("GROUP_RANK") or environment.get("SLURM_NODEID") or socket.gethostname()
    return Launch(values["RANK"], values["WORLD_SIZE"], values["LOCAL_RANK"], node)


@dataclass(frozen=True)
class MeshShape:
    """`data` groups that make videos of their own, in each of which `guidance` x `sequence` processes share a video.

    Ranks count along sequence first, then guidance, then data, so that the processes that exchange most are neighbors.
    """

    data: int = 1
    guidance: int = 1
    sequence: int = 1

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.data * self.guidance * self.sequence

    @property
    def per_video(self) -> int:
        """Processes that share one video."""
        return self.guidance * self.sequence

    def __str__(self) -> str:
        return f"data {self.data} x guidance {self.guidance} x sequence {self.sequence}"


def choose_mesh(
    world_size: int,
    num_batches: int,
    guidance: int | None = None,
    sequence: int | None = None,
    max_guidance: int = GUIDANCE_BRANCHES,
    latent_frames: int = 1,
    tokens_per_frame: int = 1,
) -> MeshShape:
    """Return the arrangement of `world_size` processes for `num_batches` batches of videos.

    Sizes that are asked for are kept. Otherwise videos are made side by side as long as there are enough of them, as
    that needs no exchange; the remaining processes share each video, by guidance before sequence, as that exchanges
    less. With nothing to share, processes stay idle.

    Args:
        guidance, sequence: processes along these axes, None to choose.
        max_guidance: 1 if the model runs without guidance.
        latent_frames, tokens_per_frame: size of the smallest video, which a sequence splits; both 1 if the model
            cannot be split. With more processes than frames, some have none, which is done only if it is asked for.

    Raises:
        ConfigError: the sizes do not divide the number of processes, or there is too little to split.
    """
    check_axes(world_size, guidance, sequence)
    if guidance is not None and guidance > max_guidance:
        raise ConfigError("guidance_parallel=2 needs a model that runs with guidance; leave it out")
    if sequence is not None and sequence > tokens_per_frame:
        what = f"only {tokens_per_frame} tokens per frame" if tokens_per_frame > 1 else "nothing"
        raise ConfigError(f"sequence_parallel={sequence} has {what} to split; use {tokens_per_frame}")
    useful = min(latent_frames, tokens_per_frame)

    def fits(shape: MeshShape) -> bool:
        return (
            shape.guidance in ((1, GUIDANCE_BRANCHES) if guidance is None else (guidance,))
            and (shape.sequence <= useful if sequence is None else shape.sequence == sequence)
            and shape.guidance <= max_guidance
        )

    def busy(shape: MeshShape) -> tuple[int, int, int]:
        """Rank an arrangement, larger is better: busy processes, then videos side by side, then guidance."""
        at_work = min(shape.data, max(num_batches, 1))
        return at_work * shape.per_video, at_work, shape.guidance

    return max(filter(fits, _shapes(world_size)), key=busy)


def check_axes(world_size: int, guidance: int | None, sequence: int | None) -> None:
    """Refuse sizes of axes that do not divide the number of processes.

    Raises:
        ConfigError: names both numbers, and a command that works.
    """
    if guidance not in (None, 1, GUIDANCE_BRANCHES):
        raise ConfigError(
            f"guidance_parallel is {guidance}, but there are two halves, with and without the prompt; set it to 1 or 2"
        )
    if sequence is not None and sequence < 1:
        raise ConfigError(f"sequence_parallel is {sequence}; set it to a number of processes, at least 1")
    asked = (guidance or 1) * (sequence or 1)
    if world_size % asked == 0:
        return
    sizes = {"guidance_parallel": guidance or 1, "sequence_parallel": sequence or 1}
    axes = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
    running = "one process runs" if world_size == 1 else f"{world_size} run, which is not a multiple of {asked}"
    raise ConfigError(f"{axes} needs {asked} processes, but {running}; start with torchrun --nproc-per-node {asked}")


def _shapes(world_size: int) -> list[MeshShape]:
    """Return all arrangements of `world_size` processes."""
    return [
        MeshShape(data, guidance, world_size // data // guidance)
        for data in range(1, world_size + 1)
        if world_size % data == 0
        for guidance in (1, GUIDANCE_BRANCHES)
        if world_size // data % guidance == 0
    ]
