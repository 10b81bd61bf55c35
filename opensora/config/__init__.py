"""Configuration: plain Python files and command-line flags, read once into typed, validated objects."""

from opensora.config.loading import config_from_dict, load_config
from opensora.config.schema import SampleConfig

__all__ = ["SampleConfig", "config_from_dict", "load_config"]
