"""Renders parts of the page as HTML: strips of steps, videos with their figures, charts. All text is escaped here."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from opensora.errors import UserError
from opensora.studio.engine import Live
from opensora.studio.jobs import Job
from opensora.studio.results import Sample

QUIET = {"show_progress": "hidden"}  # for events of Gradio that answer at once
CHART_WIDTH, CHART_HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 36
_STATES = {"waiting": "waits", "running": "runs", "done": "done", "failed": "failed", "canceled": "canceled"}


def file_url(path: Path) -> str:
    """Return the address at which Gradio serves a file of the output folder."""
    return "gradio_api/file=" + quote(str(path.resolve()))


def empty(sentence: str) -> str:
    """Return a sentence for a place where there is nothing to show yet."""
    return f'<p class="st-empty">{escape(sentence)}</p>'


def problem(sentence: str) -> str:
    """Return a sentence about what went wrong; "" if there is none."""
    return f'<p class="st-problem" role="alert">{escape(sentence)}</p>' if sentence else ""


def attempt(action: Callable[[], object]) -> str:
    """Do what a click asks for; return a sentence about what went wrong, "" if nothing did."""
    try:
        action()
    except (UserError, OSError) as error:
        return problem(str(error))
    return ""


def button(action: str, text: str, about: str = "", /, **data: str) -> str:
    """Return a button whose click triggers the event "act" of the component around it, with `data`."""
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in {"act": action, **data}.items())
    label = f' aria-label="{escape(about)}"' if about else ""
    return f'<button type="button" class="st-button"{attributes}{label}>{escape(text)}</button>'


def strip(computed: Sequence[bool], num_steps: int = 0) -> str:
    """Return a row of cells, one per step: computed, reused, or still to come."""
    total, count = max(num_steps, len(computed)), sum(computed)
    states = ["computed" if step else "reused" for step in computed] + ["coming"] * (total - len(computed))
    cells = "".join(f'<i class="st-{state}" title="step {n}: {state}"></i>' for n, state in enumerate(states, 1))
    label = f"{count} of {len(computed)} steps computed" if computed else "no step yet"
    return f'<div class="st-strip" role="img" aria-label="{label}">{cells}</div>'


LEGEND = (
    '<p class="st-legend"><span><i class="st-computed"></i>computed</span><span><i class="st-reused"></i>reused</span>'
    '<span><i class="st-coming"></i>to come</span></p>'
)


def media(sample: Sample, autoplay: bool = False) -> str:
    """Return the video or image of a sample."""
    source, label = file_url(sample.video), escape(sample.prompt)
    _, height, width = sample.size
    pixelated = ' class="st-pixelated"' if max(height, width) <= 256 else ""
    if sample.is_image:
        return f'<img{pixelated} src="{source}" alt="{label}" width="{width}" height="{height}">'
    options = 'preload="auto" autoplay' if autoplay else 'preload="metadata"'
    return (
        f'<video{pixelated} src="{source}" aria-label="{label}" width="{width}" height="{height}" '
        f"muted loop playsinline {options}></video>"
    )


def figures(sample: Sample) -> str:
    """Return the computed steps and seconds of a sample as text."""
    return f"{sample.steps} steps, {sample.seconds:.1f} s"


def card(sample: Sample, buttons: str = "", autoplay: bool = False, wide: bool = False) -> str:
    """Return a sample with its prompt, figures and buttons; `wide` puts these beside the video."""
    frames, height, width = sample.size
    lines = f"{sample.variant}, {figures(sample)}"
    about = f"seed {sample.seed}, {frames} frame{'s' * (frames > 1)} of {height} x {width}"
    return (
        f'<article class="st-card{" st-wide" * wide}">{media(sample, autoplay)}<div class="st-card-text">'
        f'<p class="st-prompt">{escape(sample.prompt)}</p><p>{escape(lines)}</p>{strip(sample.computed)}'
        f'<p class="st-faint">{escape(about)}</p><div class="st-buttons">{buttons}</div></div></article>'
    )


def compare(sample: Sample) -> str:
    """Return the button that opens a sample on the Compare tab, which shows no drafts."""
    return "" if sample.is_draft else button("compare", "Compare", id=sample.id)


def download(sample: Sample) -> str:
    """Return download links to a sample's files."""
    return "".join(
        f'<a class="st-button" href="{file_url(path)}" download="{escape(path.name)}">{text}</a>'
        for path, text in ((sample.video, "Download"), (sample.sidecar, "Sidecar"))
    )


def live(now: Live, job: Job) -> str:
    """Return the running job with its preview and steps."""
    what = "the middle frame, decoded" if now.decoded else "latents as colors: this autoencoder is too large for a look"
    picture = '<div class="st-preview-empty"></div>'
    if now.preview:
        pixelated = ' class="st-pixelated"' if now.decoded else ""
        picture = f'<img{pixelated} src="{escape(now.preview)}" alt="What forms: {what}" title="{what}">'
    done, total = len(now.computed), now.num_steps
    about = f"; the picture shows {what}" if now.preview else ""
    steps = f"step {done} of {total}, {sum(now.computed)} computed" if total else "models are being prepared"
    return (
        f'<article class="st-card st-wide"><div class="st-preview">{picture}</div><div class="st-card-text">'
        f'<p class="st-prompt">{escape(job.title)}</p>{strip(now.computed, total)}{LEGEND}'
        f"<p>{escape(steps)}</p>"
        f'<p class="st-faint">{escape(now.phase)}{about}</p></div></article>'
    )


def jobs(queue: Iterable[Job]) -> str:
    """Return the jobs as a list, in the given order."""
    rows = []
    for job in queue:
        state, cancel = _STATES[job.status], ""
        if job.is_open:
            cancel = button("cancel", "Cancel", f"Cancel {job.title}", id=job.id)
        elif job.status != "done":
            cancel = button("retry", "Again", f"Again: {job.title}", id=job.id)
        elif job.folder:
            cancel = button("show", "Show", f"Show {job.title}", id=job.id)
        command = escape(shlex.join(["opensora", "sample", *job.arguments]))
        typed = f"<details><summary>command</summary><code>{command}</code></details>"
        said = [problem(job.error or ""), *(f'<p class="st-note">{escape(note)}</p>' for note in job.notes)]
        rows.append(
            f'<li class="st-job st-{job.status}"><span class="st-state">{state}</span>'
            f'<span class="st-job-title">{escape(job.title)}{"".join(said)}{typed}</span>{cancel}</li>'
        )
    return f'<ul class="st-jobs" aria-label="Jobs">{"".join(rows)}</ul>' if rows else ""


def words(known: Mapping[str, Sequence[str]], examples: Sequence[str]) -> str:
    """Return captions that replace the prompt when clicked, and words that are added to it."""
    captions = "".join(button("example", text, f"Use the prompt {text}", text=text) for text in examples)
    groups = "".join(
        f'<p><span class="st-kind">{escape(kind)}</span><span>'
        + "".join(button("word", word, f"Add {word}", text=word) for word in of_kind)
        + "</span></p>"
        for kind, of_kind in known.items()
    )
    summary = "<summary>All words that this model knows</summary>"
    return f'<div class="st-words"><p>{captions}</p><details>{summary}{groups}</details></div>'


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        points: (x, y) pairs, ascending in x.
        color: number of its color among the page's series.
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    mark: tuple[float, float, str] | None = None,
    cursor: bool = False,
) -> str:
    """Return lines over a common axis as an SVG picture, whose points show their values under the mouse.

    Args:
        mark: a point (x, y) with its text.
        cursor: whether to add a line that the player moves to the current frame; x then counts frames from 1.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    low_y, high_y = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x or 1) * (CHART_WIDTH - _LEFT - _RIGHT)
        up = (y - low_y) / (high_y - low_y or 1) * (CHART_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(CHART_HEIGHT - _BOTTOM - up, 1)

    drawn = []
    for tick in ticks:
        y = place(low_x, tick)[1]
        drawn.append(f'<line class="st-grid" x1="{_LEFT}" x2="{CHART_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for x in dict.fromkeys((low_x, round((low_x + high_x) / 2), high_x)):
        left = place(x, low_y)[0]
        anchor = "start" if x == low_x else "end" if x == high_x else "middle"
        drawn.append(f'<text x="{left}" y="{CHART_HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{x:g}</text>')
    middle = _LEFT + (CHART_WIDTH - _LEFT - _RIGHT) / 2
    drawn.append(f'<text x="{middle}" y="{CHART_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for line in lines:
        places = [place(*point) for point in line.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        drawn.append(f'<polyline class="st-line st-series-{line.color}" points="{path}"/>')
        for (x, y), (left, top) in zip(line.points, places, strict=True):
            said = escape(f"{line.name}: {x_label} {x:g}, {y:.3g} {y_label}")
            drawn.append(
                f'<circle class="st-series-{line.color}" cx="{left}" cy="{top}" r="2.5"/>'
                f'<circle class="st-hit" cx="{left}" cy="{top}" r="7"><title>{said}</title></circle>'
            )
    if mark is not None:
        left, top = place(*mark[:2])
        drawn.append(f'<circle class="st-mark" cx="{left}" cy="{top}" r="6"><title>{escape(mark[2])}</title></circle>')
    if cursor:
        drawn.append(f'<line class="st-cursor" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{CHART_HEIGHT - _BOTTOM}"/>')
    names = "".join(f'<span><i class="st-series-{line.color}"></i>{escape(line.name)}</span>' for line in lines)
    keys = f'<p class="st-legend">{names}</p>' if len(lines) > 1 else ""
    data = f' data-left="{_LEFT}" data-right="{CHART_WIDTH - _RIGHT}"' if cursor else ""
    return (
        f'<figure class="st-chart"><figcaption>{escape(title)} ({escape(y_label)})</figcaption>'
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(title)}"{data}>'
        f"{''.join(drawn)}</svg>{keys}</figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return two to six round numbers that enclose a range."""
    span = high - low or abs(high) or 1.0
    rough = span / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(n * step, 10) for n in range(first, last + 1)]
