"""How many latent frames the autoencoders make of a clip."""

from __future__ import annotations

CHUNK_FRAMES = 17  # frames that Open-Sora's autoencoder encodes and decodes together
FRAMES_PER_LATENT = 4  # of Open-Sora's temporal autoencoder, and of Open-Sora-Plan's causal one


def chunked_latent_frames(
    num_frames: int, chunk: int | None = CHUNK_FRAMES, frames_per_latent: int = FRAMES_PER_LATENT
) -> int:
    """Latent frames of a clip that is encoded chunk by chunk (None: as one), such as 15 for 51 frames.

    Source: Open-Sora v1.2, `VideoAutoencoderPipeline.get_latent_size`.
    """
    full, rest = divmod(num_frames, chunk or num_frames)
    return full * -(-(chunk or num_frames) // frames_per_latent) + -(-rest // frames_per_latent)


def causal_latent_frames(num_frames: int) -> int:
    """Latent frames of a clip whose first frame stands alone: 1 + k for 1 + 4 k frames.

    Source: Open-Sora-Plan v1.1.0, `CausalVAEModel`.
    """
    return 1 + (num_frames - 1) // FRAMES_PER_LATENT


def causal_num_frames(latent_frames: int) -> int:
    """Frames that the same autoencoder decodes from `latent_frames` latent frames."""
    return 1 + (latent_frames - 1) * FRAMES_PER_LATENT
