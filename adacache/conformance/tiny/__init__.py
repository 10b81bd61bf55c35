"""Pipelines of diffusers with tiny random models: the real classes, built in a second on a CPU, without a download."""

from adacache.conformance.tiny import cogvideox, cosmos, hunyuan, kandinsky, ltx, others, wan
from adacache.conformance.tiny_pipeline import TEXT_TOKENS, TEXT_WIDTH, TinyPipeline, installed

_FILES = (others, cogvideox, wan, ltx, hunyuan, kandinsky, cosmos)
# TINY has a pipeline for each family but SANA-WM, which makes one video at a time; OTHERS has that one, and further
# pipelines around the same transformers.
TINY = installed({name: tiny for file in _FILES for name, tiny in file.TINY.items()})
OTHERS = installed({name: tiny for file in _FILES for name, tiny in file.OTHERS.items()})
__all__ = ["OTHERS", "TEXT_TOKENS", "TEXT_WIDTH", "TINY", "TinyPipeline"]
