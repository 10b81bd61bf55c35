"""The bench's report: one self-contained page made from a folder's bench.json and its videos."""

from bench.report.render import render

__all__ = ["render"]
