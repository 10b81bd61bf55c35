"""The parts that `scripts/benchmark.py` measures, one file each."""

PARTS = ("steps", "memory", "flops", "mini", "compile", "prompts", "quality")
DEFAULT_PARTS = ("memory", "flops", "mini", "compile")
