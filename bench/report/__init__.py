"""The bench's report: one self-contained page and a picture, made from a folder's bench.json and its videos."""

from bench.report.render import draw, render

__all__ = ["draw", "render"]
