"""Which arrangement of processes a run can have."""

from __future__ import annotations

from opensora.acceleration.mesh import MeshShape, choose_mesh
from opensora.cli.session import Session
from opensora.config.kinds import kind_of
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.memory.shapes import read_shapes


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
