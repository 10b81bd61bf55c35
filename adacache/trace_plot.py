"""A picture of a trace: what was measured at each step, and what was decided."""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adacache.atomic import atomic_path
from adacache.codebook import Codebook
from adacache.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COMPUTED = "#1d4ed8"
REUSED = "#d7dce5"
MOTION = "#b45309"
INK = "#1f2937"
FAINT = "#6b7280"
BAND = "#e9edf5"

WIDTH = 10.0  # inches
MARGIN_LEFT, MARGIN_RIGHT = 0.85, 1.05  # inches; the right one holds the rates
MAX_FILM_HEIGHT = 1.6  # inches
FILM_FRAMES = 8
FILM_GAP = 0.012  # of the film's width
MAX_FRAME_PIXELS = 400  # along a frame's width: more than the film shows
MAX_TICKS = 8
SANS = "DejaVu Sans"  # comes with matplotlib
# Fonts with glyphs that it lacks; those that are installed are used.
WIDE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei")
WIDE_FONTS += ("Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Malgun Gothic")


def plot_trace(
    trace: Trace,
    path: str | os.PathLike[str],
    codebook: Codebook | None = None,
    title: str | None = None,
    frames: Any = None,
    threshold: float | None = None,
) -> None:
    """Draw a trace as a picture; the suffix of `path` chooses the format (.png, .svg, .pdf).

    The main panel shows, over the steps counted from 1, the value that was compared, or the distance if it was only
    measured, against the thresholds and rates of `codebook` if given, or against the single `threshold` of a policy
    that goes by a signal; with motion regularization it also shows the distance alone. Below follow the motion score
    and the weight of a fitted bridge, if there are any, and a strip of computed and reused steps, with a diamond where
    frames joined. `frames`, the (F, H, W, 3) uint8 video, adds a film of some of its frames on top. The file appears
    complete or not at all.

    Raises:
        ValueError: the trace has no steps, or `frames` are not what they should be.
    """
    if not trace.records:
        raise ValueError("cannot plot a trace without steps; plot it after the run")
    # The figure is made without pyplot: that would register it globally and choose a backend for the whole
    # process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = WIDTH - MARGIN_LEFT - MARGIN_RIGHT
    panels = _panels(trace, codebook, frames, threshold)
    header, footer = 0.72, 0.5
    height = header + sum(size + gap for size, gap, _ in panels) + footer
    figure = Figure(figsize=(WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    _draw_header(figure, trace, title, left=MARGIN_LEFT / WIDTH, height=height)
    top = height - header
    for size, gap, draw in panels:
        top -= gap + size
        draw(figure.add_axes((MARGIN_LEFT / WIDTH, top / height, width / WIDTH, size / height)))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png")


def _panels(
    trace: Trace, codebook: Codebook | None, frames: Any, threshold: float | None
) -> list[tuple[float, float, Callable[["Axes"], None]]]:
    """Return what there is to draw from top to bottom: its height in inches, the space above, and what draws it."""

    def has(*names: str) -> bool:
        return any(getattr(record, name) is not None for record in trace.records for name in names)

    panels = []
    if frames is not None:
        film = _film_strip(frames)
        width = WIDTH - MARGIN_LEFT - MARGIN_RIGHT
        panels.append(
            (min(width * film.shape[0] / film.shape[1], MAX_FILM_HEIGHT), 0.0, partial(_draw_film, film=film))
        )
    if has("distance", "value"):  # few static schedules measure any
        panels.append((2.9, 0.18, partial(_draw_distance, trace=trace, codebook=codebook, threshold=threshold)))
    if has("motion_score"):
        panels.append((0.8, 0.16, partial(_draw_motion, trace=trace)))
    if has("bridge_weight"):
        panels.append((0.5, 0.16, partial(_draw_bridge, trace=trace)))
    return [*panels, (0.2, 0.14, partial(_draw_strip, trace=trace))]


def _draw_film(axes: "Axes", film: np.ndarray) -> None:
    axes.imshow(film, interpolation="antialiased")
    axes.set_anchor("W")
    axes.set_axis_off()


def _draw_header(figure: Any, trace: Trace, title: str | None, left: float, height: float) -> None:
    facts = [f"{trace.num_computed} of {len(trace.records)} steps computed"]
    if len(trace.records) < trace.num_steps:
        facts.append(f"stopped before step {len(trace.records)} of {trace.num_steps}")
    if trace.estimated_speedup is not None and trace.num_reused:
        facts.append(f"about {trace.estimated_speedup:.1f}x faster")
    if any(record.rate is not None for record in trace.records):
        facts.append("dots: computed steps; the band a dot lies in says how long it is reused")
    title = " ".join(title.split()) if title else "Computed and reused steps"
    families = (SANS,) if title.isascii() else installed_fonts()
    title = drawable(title, families)
    title = title if len(title) <= 90 else title[:89].rstrip() + "…"
    style = {"size": 12.5, "weight": "bold", "color": INK, "va": "top", "family": families}
    figure.text(left, 1 - 0.22 / height, title, parse_math=False, **style)
    figure.text(left, 1 - 0.49 / height, "  ·  ".join(facts), size=9.5, color=FAINT, va="top")


def installed_fonts() -> tuple[str, ...]:
    """Return DejaVu Sans and those of `WIDE_FONTS` that are installed."""
    from matplotlib.font_manager import get_font_names

    return (SANS, *sorted(set(WIDE_FONTS) & set(get_font_names()), key=WIDE_FONTS.index))


def drawable(text: str, families: Sequence[str] = (SANS,)) -> str:
    """Return `text` with escapes such as \\u4e00 for characters that none of the fonts has."""
    if text.isascii():
        return text
    from matplotlib.font_manager import findfont, get_font

    known = set().union(*(get_font(findfont(family)).get_charmap() for family in families))
    return "".join(c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in text)


def _draw_distance(axes: "Axes", trace: Trace, codebook: Codebook | None, threshold: float | None) -> None:
    # What was compared with thresholds; else, where a policy only measures, the distance.
    compared = any(record.value is not None for record in trace.records)
    measured = [(r.index, r.value if compared else r.distance) for r in trace.records]
    measured = [(step, value) for step, value in measured if value is not None and not math.isnan(value)]
    thresholds = codebook.thresholds if codebook else ()
    top = _axis_top([value for _, value in measured], thresholds)
    regularized = _is_regularized(trace)
    by_signal = any(record.distance is not None for record in trace.records if not record.computed)
    _style(axes, trace, "compared value" if by_signal else "distance per step")
    axes.set_ylim(0, top)
    if codebook:
        _draw_rates(axes, codebook, top)
    elif threshold is not None and threshold < top:
        axes.axhline(threshold, color=FAINT, lw=0.6, ls=(0, (4, 3)), zorder=1)
        _note_at_right(axes, "threshold", threshold)

    inside = [(step, value) for step, value in measured if value <= top]
    beyond = [(step, value) for step, value in measured if value > top]
    if regularized:
        plain = [
            (r.index, min(r.distance, top)) for r in trace.records if r.value is not None and r.distance is not None
        ]
        axes.plot(*_columns(plain), "-o", color=MOTION, lw=0.9, ms=2.5, alpha=0.55, zorder=2, label="distance alone")
    label = "distance × motion, which decides" if regularized else None
    line = [(s, min(v, top)) for s, v in measured]
    axes.plot(*_columns(line), color=COMPUTED, lw=1.1, alpha=0.45, zorder=3, label=label)
    if regularized:
        axes.legend(
            loc="upper center", ncols=2, fontsize=8, frameon=False, labelcolor=FAINT, bbox_to_anchor=(0.5, 1.08)
        )
    axes.plot(*_columns(inside), "o", color=COMPUTED, ms=5, mec="white", mew=0.8, zorder=4)
    # A few values far above all thresholds would flatten the others: they are cut off and labeled.
    axes.plot(*_columns([(step, top) for step, _ in beyond]), "^", color=COMPUTED, ms=5, clip_on=False, zorder=4)
    if beyond:
        label = f"up to {max(value for _, value in beyond):.3g}"
        place = (beyond[-1][0], top)
        axes.annotate(label, place, (8, 0), textcoords="offset points", size=8, color=COMPUTED, va="center")


def _draw_rates(axes: "Axes", codebook: Codebook, top: float) -> None:
    """Shade every other band between thresholds; write its rate beside it."""
    edges = [0.0, *(threshold for threshold in codebook.thresholds if threshold < top), top]
    for index, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        if index % 2 == 0:
            axes.axhspan(low, high, color=BAND, lw=0, zorder=0)
        if index > 0:
            axes.axhline(low, color=FAINT, lw=0.6, ls=(0, (4, 3)), zorder=1)
        if (high - low) / top >= 0.035:  # else the label would run into its neighbor
            rate = codebook.rates[index]
            wait = "every step" if rate == 1 else f"every {rate} steps"
            _note_at_right(axes, wait, (low + high) / 2)


def _draw_motion(axes: "Axes", trace: Trace) -> None:
    scored = [(r.index, r.motion_score) for r in trace.records if r.motion_score is not None]
    scored = [(step, score) for step, score in scored if math.isfinite(score)]
    _style(axes, trace, "motion")
    if _is_regularized(trace):
        axes.axhline(1, color=FAINT, lw=0.6, ls=(0, (4, 3)), zorder=1)
        _note_at_right(axes, "neutral", 1)
    axes.plot(*_columns(scored), "-o", color=MOTION, lw=1.1, ms=3, zorder=3)
    scores = [score for _, score in scored]
    if scores and min(scores) > 0 and max(scores) / min(scores) > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.margins(y=0.2)


def _is_regularized(trace: Trace) -> bool:
    """Whether motion scores are factors of the distance, 1 being neutral, and not only measured."""
    return any(record.motion_score is not None and record.value is not None for record in trace.records)


def _draw_bridge(axes: "Axes", trace: Trace) -> None:
    """How much of the residual's slope the reused steps follow: from each computed step to the next."""
    _style(axes, trace, "bridge")
    weights = [(r.index, r.bridge_weight) for r in trace.records if r.bridge_weight is not None]
    steps, values = _columns([*weights, (trace.num_steps, weights[-1][1])])
    axes.fill_between([step - 0.5 for step in steps], values, step="post", color=COMPUTED, alpha=0.25, lw=0)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1])
    _note_at_right(axes, "slope", 1)
    _note_at_right(axes, "hold", 0)


def _note_at_right(axes: "Axes", text: str, y: float) -> None:
    """Write `text` into the right margin, at `y` in data units."""
    place = ("axes fraction", "data")
    axes.annotate(text, (1, y), (6, 0), place, "offset points", size=8, color=FAINT, va="center")


def _draw_strip(axes: "Axes", trace: Trace) -> None:
    _style(axes, trace, None)
    steps = [record.index for record in trace.records]
    shares = [record.computed if record.computed_share is None else record.computed_share for record in trace.records]
    axes.bar(steps, [1] * len(steps), width=0.78, color=REUSED, lw=0)
    axes.bar(steps, [float(share) for share in shares], width=0.78, color=COMPUTED, lw=0)
    joined = [record.index for record in trace.records if record.joined]
    axes.plot(joined, [0.5] * len(joined), "D", color="white", ms=4, zorder=3)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("denoising step", size=9, color=INK)
    for offset, text, color in ((4, "computed", COMPUTED), (-6, "reused", FAINT)):
        axes.annotate(text, (1, 0.5), (6, offset), "axes fraction", "offset points", size=8, color=color, va="center")


def _style(axes: "Axes", trace: Trace, ylabel: str | None) -> None:
    axes.set_xlim(-0.8, trace.num_steps - 0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, colors=FAINT, length=3)
    every = next(n for n in itertools.count(1) if (n in (1, 2) or n % 5 == 0) and trace.num_steps <= n * MAX_TICKS)
    ticks = sorted({0, *range(every - 1, trace.num_steps, every)})  # people count from 1
    axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    if ylabel:  # the strip below has the labels of the steps
        axes.tick_params(labelbottom=False, bottom=False)
        axes.set_ylabel(ylabel, size=9, color=INK)
        axes.yaxis.set_label_coords(-0.062, 0.5)


def _axis_top(values: list[float], thresholds: tuple[float, ...]) -> float:
    """Return the end of the distance axis, so that it shows all thresholds and values up to twice the last one."""
    finite = [value for value in values if math.isfinite(value)]
    highest = max(finite, default=0.0)
    if thresholds:
        return max(1.25 * thresholds[-1], min(1.08 * highest, 2 * thresholds[-1]))
    return 1.08 * highest or 1.0


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _film_strip(frames: Any) -> Any:
    """Put some evenly spaced frames side by side, as one (H, W, 3) image."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be a (F, H, W, 3) uint8 video, got {frames.shape} {frames.dtype}")
    chosen = spread(frames, FILM_FRAMES)
    thin = max(1, chosen.shape[2] // MAX_FRAME_PIXELS)
    chosen = chosen[:, ::thin, ::thin]
    return side_by_side(chosen, gap=max(1, round(FILM_GAP * chosen.shape[2])))


def spread(frames: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` evenly spaced frames of a video (F, H, W, 3), the first and the last among them."""
    count = min(count, len(frames))
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def side_by_side(frames: np.ndarray, gap: int = 0) -> np.ndarray:
    """Return frames (F, H, W, 3) uint8 as one image (H, W', 3), with `gap` white pixels between them."""
    white = np.full((frames.shape[1], gap, 3), 255, np.uint8)
    pieces = [piece for frame in frames for piece in (white, frame)]
    return np.concatenate(pieces[1:], axis=1)
