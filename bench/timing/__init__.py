"""The parts that `scripts/benchmark.py` measures, one file each, and the comparison of two runs."""

from pathlib import Path

PARTS = ("steps", "memory", "flops", "mini", "compile", "prompts", "quality")
DEFAULT_PARTS = ("memory", "flops", "mini", "compile")
DEFAULT_FILE = Path("outputs/benchmark.json")
