"""The v1.2 video autoencoder."""

from opensora.models.vae.layerwise import TilingConfig
from opensora.models.vae.vae import VideoAutoencoderConfig, VideoAutoencoderPipeline

__all__ = ["TilingConfig", "VideoAutoencoderConfig", "VideoAutoencoderPipeline"]
