"""The v1.2 video autoencoder."""

from opensora.models.vae.vae import VideoAutoencoderConfig, VideoAutoencoderPipeline

__all__ = ["VideoAutoencoderConfig", "VideoAutoencoderPipeline"]
