"""What `scripts/benchmark.py` measures: one file per part, and the comparison of two runs of it."""
