"""Render the report: a page of template, style sheets and scripts, which loads nothing else; and its first chart."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from adacache.atomic import atomic_path
from bench.report.charts import charts, policy_styles, runtime
from bench.report.data import COSTS, define, known_budgets, load_bench, load_videos, page_data
from bench.report.findings import Findings
from bench.report.table import columns, rows

PAGE_FILE, PICTURE_FILE = "index.html", "quality.png"
_PARTS = Path(__file__).with_name("page")
_STYLES = ("colors.css", "page.css", "controls.css", "charts.css", "showcase.css", "table.css")
# They are joined into one module, so each file can use what those before it define.
_SCRIPTS = (
    *("dom.js", "data.js", "tooltip.js", "charts.js", "table.js"),
    *("strip.js", "player.js", "difference.js", "showcase.js", "main.js"),
)

_PICTURE = {"width": 1070, "height": 460, "background": "white"}  # pixels

logger = logging.getLogger(__name__)


def render(folder: Path) -> Path:
    """Write the report of a bench folder as index.html into it, complete or not at all, and return its path.

    A video that is missing is logged, and its card says so.

    Raises:
        FileNotFoundError: there is no bench.json.
        ValueError: bench.json is not what the bench writes.
    """
    folder = Path(folder)
    bench = load_bench(folder)
    videos = load_videos(folder, bench)
    missing = {video["file"] for scene in bench["showcase"] for video in scene["videos"]} - set(videos)
    if missing:
        logger.warning("%d videos of the showcase are missing, such as '%s'", len(missing), folder / min(missing))
    page = folder / PAGE_FILE
    with atomic_path(page) as unfinished:
        unfinished.write_text(_page(bench, videos), encoding="utf-8")
    return page


def draw(folder: Path) -> Path:
    """Write the page's first chart, in its light colors, as quality.png into a bench folder, and return its path.

    Raises:
        FileNotFoundError: there is no bench.json.
        ValueError: bench.json is not what the bench writes.
    """
    chart = charts(load_bench(folder))
    light, _ = (_PARTS / "colors.css").read_text(encoding="utf-8").split("}", 1)
    colors = dict(re.findall(r"(--[\w-]+): ([^;]+);", light))
    text = re.sub(r"var\((--[\w-]+)\)", lambda name: colors[name[1]], json.dumps(chart["quality"]))
    picture = Path(folder) / PICTURE_FILE
    with atomic_path(picture) as unfinished:
        specification = {**json.loads(text), **_PICTURE, "datasets": {"points": chart["points"]}}
        unfinished.write_bytes(vl_convert.vegalite_to_png(json.dumps(specification)))
    return picture


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a script element: no character can end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(bench: Mapping[str, Any], videos: Mapping[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PARTS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["zip"] = zip
    styles = policy_styles(bench)
    policies = [policy | styles[policy["title"]] for policy in bench["policies"]]
    data = page_data({**bench, "policies": policies, "charts": charts(bench), "budgets": known_budgets(bench)})
    return environment.get_template("page.html.j2").render(
        bench=bench,
        findings=Findings(bench),
        definitions=define(bench["metrics"]),
        style=Markup(_joined(_STYLES)),
        script=Markup(_joined(_SCRIPTS)),
        runtime=Markup(runtime()),
        styles=styles,
        columns=columns(bench),
        rows=rows(bench),
        data=Markup(script_json({**data, "costs": COSTS})),
        videos=Markup(script_json(videos)),
    )


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join((_PARTS / name).read_text(encoding="utf-8") for name in names)
