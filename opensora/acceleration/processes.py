"""Start process groups through colossalai and arrange them in a mesh; no other module does.

It is imported only if more than one process runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from opensora.acceleration.channel import Channel, Traffic
from opensora.acceleration.coordinator import LEADER_DIED, Coordinator, Member
from opensora.acceleration.launch import Launch, MeshShape
from opensora.acceleration.video_group import VideoGroup
from opensora.errors import KEPT, ConfigError

if TYPE_CHECKING:
    from colossalai.cluster import DistCoordinator

EXIT_DEATH = 3  # exit code of a process that ends because another one did
_DATA, _GUIDANCE, _SEQUENCE = range(3)  # axes of the mesh


class Processes:
    """All processes of the run, of which this is one.

    Attributes:
        launch: who this process is.
        member: its connection to rank 0.
        coordinator: the server, on rank 0 only.
        before_end: called on rank 0, with the reason, before it ends because a process died or failed.

    Raises:
        ConfigError: colossalai is not installed, there are fewer GPUs than processes, or rank 0 cannot be reached.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.before_end: Callable[[str], None] = lambda reason: None
        self.coordinator: Coordinator | None = None
        address = [None]
        if _start_groups().is_master():
            self.coordinator = Coordinator(launch.world_size, self._end)
            address = [(_own_addresses(), self.coordinator.port, self.coordinator.token)]
        dist.broadcast_object_list(address, src=0)
        self.member = self._join(*address[0])

    def _join(self, addresses: Sequence[str], port: int, token: str) -> Member:
        """Connect to rank 0; all processes call it.

        Raises:
            ConfigError: on all processes, if one of them cannot connect.
        """
        member, problem = None, None
        try:
            member = Member(self.launch, addresses, port, token, self._end)
        except OSError as error:
            problem = f"{self.launch.name}: {error}"
        for found in self.gather(problem):
            if found is not None:
                raise ConfigError(found)
        return member

    def arrange(self, shape: MeshShape) -> VideoGroup:
        """Make the process groups of a mesh; all processes call it."""
        from colossalai.cluster import ProcessGroupMesh

        mesh = ProcessGroupMesh(shape.data, shape.guidance, shape.sequence)
        traffic = Traffic()

        def channel(axes: list[int]) -> Channel | None:
            if all(mesh.size(axis) == 1 for axis in axes):
                return None
            group = mesh.create_group_along_axis(axes)
            return Channel(group, mesh.get_ranks_in_group(group), traffic)

        return VideoGroup(
            shape,
            int(mesh.coordinate(_DATA)),
            channel([_GUIDANCE]),
            channel([_SEQUENCE]),
            channel([_GUIDANCE, _SEQUENCE]),
            traffic,
        )

    def gather(self, value: object) -> list[object]:
        """Return the values of all processes, by rank."""
        values: list[object] = [None] * self.launch.world_size
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Leave the run in good order; rank 0 is the last."""
        self.member.leave()
        if self.coordinator is not None:
            self.coordinator.wait_for_goodbyes()
            self.coordinator.close()
        dist.destroy_process_group()

    def _end(self, reason: str) -> None:
        """End this process at once, from any thread: the main one may be waiting forever for the dead process."""
        with contextlib.suppress(Exception):
            self.before_end(reason)
        # Printed once on every machine; if rank 0 died, whose message would be seen first, by all processes.
        if self.launch.local_rank == 0 or reason == LEADER_DIED:
            where = "" if self.launch.rank == 0 else f" ({self.launch.name} ends, too)"
            print(f"error: {reason}; {KEPT}{where}", file=sys.stderr)
            sys.stderr.flush()
        os._exit(EXIT_DEATH)


def _start_groups() -> DistCoordinator:
    """Start torch.distributed, with NCCL on GPUs and gloo elsewhere; every process takes the GPU of its local rank.

    Raises:
        ConfigError: colossalai is not installed, or there are fewer GPUs than processes.
    """
    try:
        import colossalai
        from colossalai.cluster import DistCoordinator
    except ImportError as error:
        raise ConfigError(
            f"several processes are launched through colossalai, which cannot be imported ({error}); install it with "
            "pip install --no-deps --no-build-isolation -r requirements-colossalai.txt"
        ) from error
    local_rank, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if devices and local_rank >= devices:
        raise ConfigError(
            f"local rank {local_rank} has no GPU of its own, this machine has {devices}; use torchrun --nproc-per-node "
            f"{devices}, or hide them with CUDA_VISIBLE_DEVICES="
        )
    logging.getLogger("colossalai").setLevel(logging.WARNING)
    colossalai.launch_from_torch(verbose=False)
    return DistCoordinator()


def _own_addresses() -> list[str]:
    """Return addresses under which other machines may reach this one: by its route to the master, then by name."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    addresses = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))  # sends nothing; it only chooses a route
        addresses.append(probe.getsockname()[0])
    return [*addresses, socket.gethostname(), master]
