"""Make the page's charts as Vega-Lite specifications, with Altair, and the scripts that draw them.

Colors are the style sheet's variables, so that charts follow light and dark; the page sets the parameters `metric`,
`cost`, `intervals` and `budget`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from bench.report.data import COSTS, budget_of, compute_of, known_budgets

OURS_COLORS, OTHER_COLORS = 3, 12  # of the style sheet
SHAPES = (
    *("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left"),
    "M-.5,-1L.5,-1L0,0L.5,1L-.5,1L0,0Z",  # an hourglass
    "M-1,-.45L1,-.45L1,.45L-1,.45Z",  # a bar
)
FADED = 0.12
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
FONT = 13
MEASURED = ("mean", "low", "high")


def charts(bench: Mapping[str, Any]) -> dict[str, Any]:
    """Return Vega-Lite specifications "quality" and "gains", and the rows "points" for their dataset of that name."""
    styles = policy_styles(bench)
    metrics = _by_key(bench["metrics"])
    costs = {key: cost for key, cost in _by_key(COSTS).items() if any(key in p["values"] for p in bench["points"])}
    return {
        "points": [*_points(bench, metrics, costs), *_references(bench, metrics)],
        "quality": _specification(_quality(styles, metrics, costs)),
        "gains": _specification(_gains(styles, metrics, known_budgets(bench))),
    }


def policy_styles(bench: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by title of each policy its color, its shape, and whether it is emphasized (ours, and the baseline)."""
    styles: dict[str, dict[str, Any]] = {}
    ours = others = 0
    for index, policy in enumerate(bench["policies"]):
        strong = policy["ours"] or policy["name"] == bench["baseline"]
        if policy["ours"]:
            color, ours = f"var(--ours-{ours % OURS_COLORS})", ours + 1
        elif strong:
            color = "var(--base)"
        else:
            color, others = f"var(--other-{others % OTHER_COLORS})", others + 1
        styles[policy["title"]] = {"color": color, "shape": SHAPES[index % len(SHAPES)], "strong": bool(strong)}
    return styles


@cache
def runtime() -> str:
    """Return the scripts of Vega, Vega-Lite and Vega-Embed, which define `vegaEmbed`."""
    # Nothing in a script may look like its end tag.
    return re.sub(
        "</(?=script)", r"<\\/", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), flags=re.IGNORECASE
    )


def _by_key(quantities: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {quantity["key"]: quantity for quantity in quantities}


def _points(bench: Mapping[str, Any], metrics: Mapping[str, Any], costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per point: every mean with its interval, and the differences to the baseline."""
    policies = {policy["name"]: policy for policy in bench["policies"]}
    budgets = known_budgets(bench)
    rows = []
    for point in bench["points"]:
        policy = policies[point["policy"]]
        estimates = {key: point["values"].get(key) for key in (*metrics, *costs)}
        is_baseline = point["policy"] == bench["baseline"]
        gains = {f"gain_{key}": None if is_baseline else (point.get("gain") or {}).get(key) for key in metrics}
        rows.append(
            {
                "policy": policy["title"],
                "strong": policy["ours"] or is_baseline,
                "budget": point["budget"],
                "column": budget_of(point, budgets),
                "steps": compute_of(point),
                **{
                    f"{key}_{name}": estimate[name]
                    for key, estimate in (estimates | gains).items()
                    if estimate
                    for name in MEASURED
                },
            }
        )
    return rows


def _references(bench: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for the uncached run, with the metrics that compare it with something else."""
    return [
        {"reference": entry["title"]}
        | {f"{key}_mean": entry["values"][key]["mean"] for key in metrics if entry["values"].get(key)}
        for entry in bench["references"]
        if entry["name"] == "uncached"
    ]


def _table(values: Mapping[str, Any], key: str) -> str:
    """Return a Vega expression for the entry of `values` that the signal `key` names."""
    return f"({json.dumps(values)})[{key}]"


def _signs(quantities: Mapping[str, Mapping[str, Any]], key: str) -> str:
    return _table({name: -1 if entry["better"] == "lower" else 1 for name, entry in quantities.items()}, key)


def _title(quantity: Mapping[str, Any]) -> str:
    return f"{quantity['title']} ({quantity['unit']})" if quantity["unit"] else quantity["title"]


def _scales(styles: Mapping[str, Mapping[str, Any]]) -> tuple[alt.Scale, alt.Scale]:
    """Return scales for the colors and shapes of policies by title."""
    titles = list(styles)
    return tuple(
        alt.Scale(domain=titles, range=[styles[title][what] for title in titles]) for what in ("color", "shape")
    )


def _quality(
    styles: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]
) -> alt.LayerChart:
    """Draw the chosen metric against the chosen cost: a curve per policy, the Pareto front, the uncached video."""
    colors, shapes = _scales(styles)
    metric = alt.param("metric", value=next(iter(metrics)))
    cost = alt.param("cost", value="compute" if "compute" in costs else next(iter(costs)))
    intervals = alt.param("intervals", value=False)
    chosen = alt.selection_point(name="chosen", fields=["policy"], bind="legend")
    hovered = alt.selection_point(name="hovered", fields=["policy"], on="pointerover", clear="pointerout")
    values = {"x": "datum[cost + '_mean']", **{name: f"datum[metric + '_{name}']" for name in MEASURED}}
    points = (
        alt.Chart(alt.NamedData("points"))
        .transform_calculate(**values)
        .transform_filter("!datum.reference && isValid(datum.x) && isValid(datum.mean)")
    )
    seen = chosen & hovered
    legend = alt.Legend(title=None, orient="bottom", columns=alt.ExprRef("max(1, floor(width / 210))"), labelLimit=190)
    color = alt.Color("policy:N", scale=colors, legend=legend)
    x = alt.X("x:Q", scale=alt.Scale(zero=False, padding=14), title=None)
    y = alt.Y("mean:Q", scale=alt.Scale(zero=False, padding=16), title=None)
    front = (
        points.transform_calculate(
            merit=f"datum.mean * {_signs(metrics, 'metric')}", expense=f"-datum.x * {_signs(costs, 'cost')}"
        )
        .transform_window(best="max(merit)", sort=[alt.SortField("expense")], frame=[None, 0])
        .transform_filter("datum.merit >= datum.best")
        .mark_line(stroke="var(--ink)", strokeWidth=12, opacity=0.1, strokeCap="round", strokeJoin="round")
        .encode(x=x, y=y, order="expense:Q")
    )
    curves = points.mark_line().encode(
        x=x,
        y=y,
        color=color,
        strokeWidth=alt.condition("datum.strong", alt.value(2.8), alt.value(1.4)),
        opacity=alt.condition(seen, alt.value(1), alt.value(FADED)),
    )
    whiskers = (
        points.transform_filter("intervals || datum.strong")
        .mark_rule()
        .encode(
            x=x,
            y=alt.Y("low:Q", title=None),
            y2="high:Q",
            color=color,
            opacity=alt.condition(seen, alt.value(0.8), alt.value(FADED)),
        )
    )
    marks = points.mark_point(size=75, filled=True, opacity=1).encode(
        x=x,
        y=y,
        color=color,
        shape=alt.Shape("policy:N", scale=shapes, legend=legend),
        size=alt.condition("datum.strong", alt.value(110), alt.value(60)),
        opacity=alt.condition(seen, alt.value(1), alt.value(FADED)),
        tooltip=alt.Tooltip("policy:N"),
    )
    uncached = (
        alt.Chart(alt.NamedData("points"))
        .transform_calculate(mean=values["mean"])
        .transform_filter("datum.reference && isValid(datum.mean)")
    )
    rule = uncached.mark_rule(stroke="var(--ink)", strokeDash=[2, 4], strokeWidth=1.5).encode(y=y)
    label = uncached.mark_text(align="left", dx=6, dy=-8, fill="var(--ink)", fontSize=FONT).encode(
        x=alt.value(0), y=y, text="reference:N"
    )
    names = (
        points.transform_filter("datum.strong")
        .transform_aggregate(x="max(x)", mean="argmax(x)", groupby=["policy"])
        .transform_calculate(mean="datum.mean.mean")
        .mark_text(align="right", dx=4, dy=-14, fontWeight=600, fontSize=FONT)
        .encode(x=x, y=y, text="policy:N", color=color, opacity=alt.condition(seen, alt.value(1), alt.value(FADED)))
    )
    title = {key: f"{_title(entry)}, {entry['better']} is better," for key, entry in metrics.items()}
    against = {key: f"against {_title(entry)[0].lower()}{_title(entry)[1:]}" for key, entry in costs.items()}
    return (
        alt.layer(front, rule, label, curves.add_params(chosen), whiskers, marks.add_params(hovered), names)
        .resolve_scale(color="shared", shape="shared")
        .add_params(metric, cost, intervals)
        .properties(
            width="container",
            height=460,
            title=alt.TitleParams(text=alt.ExprRef(f"[{_table(title, 'metric')}, {_table(against, 'cost')}]")),
        )
    )


def _gains(
    styles: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], budgets: Sequence[int]
) -> alt.FacetChart:
    """Draw differences to the baseline at equal compute: a row per policy, a column per budget or the chosen one."""
    colors, _ = _scales(styles)
    values = {name: f"datum['gain_' + metric + '_{name}']" for name in MEASURED}
    points = (
        alt.Chart(alt.NamedData("points"))
        .transform_calculate(**values)
        .transform_filter(f"isValid(datum.mean) && indexof({json.dumps(list(budgets))}, datum.column) >= 0")
        .transform_filter("!budget || datum.column == budget")
        .transform_calculate(merit=f"datum.mean * {_signs(metrics, 'metric')}")
    )
    y = alt.Y(
        "policy:N",
        sort=alt.EncodingSortField("merit", op="mean", order="descending"),
        title=None,
        axis=alt.Axis(labelLimit=220),
    )
    x = alt.X("mean:Q", title=None, axis=alt.Axis(tickCount=4, format="+.3~g", labelOverlap=True))
    color = alt.Color("policy:N", scale=colors, legend=None)
    layers = alt.layer(
        alt.Chart().mark_rule(stroke="var(--muted)").encode(x=alt.datum(0)),
        alt.Chart()
        .mark_rule(strokeWidth=11, opacity=0.35)
        .encode(x=alt.X("low:Q", title=None), x2="high:Q", y=y, color=color),
        alt.Chart()
        .mark_point(size=55, strokeWidth=2, opacity=1)
        .encode(
            x=x,
            y=y,
            color=color,
            fill=alt.condition(
                "datum.low <= 0 && datum.high >= 0",
                alt.value("var(--page)"),
                alt.Fill("policy:N", scale=colors, legend=None),
            ),
            tooltip=alt.Tooltip("policy:N"),
        ),
        data=points.data,
    )
    layers.transform = points.transform
    return (
        layers.properties(width=150, height=alt.Step(27))
        .facet(column=alt.Column("column:O", title=None, header=alt.Header(labelExpr="datum.value + ' steps'")))
        .add_params(alt.param("metric", value=next(iter(metrics))), alt.param("budget", value=0))
    )


def _specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Return the chart in Vega-Lite, with the page's fonts and colors."""
    text = {"labelColor": "var(--muted)", "labelFontSize": FONT, "titleColor": "var(--muted)", "titleFontSize": FONT}
    lines = {"gridColor": "var(--faint)", "domainColor": "var(--line)", "tickColor": "var(--line)"}
    chart = chart.configure(
        font=FONTS,
        background="transparent",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(**text, **lines),
        legend=alt.LegendConfig(labelColor="var(--ink)", labelFontSize=FONT, symbolSize=80),
        header=alt.HeaderConfig(labelColor="var(--ink)", labelFontSize=14, labelFontWeight=600),
        title=alt.TitleConfig(color="var(--muted)", fontSize=FONT, fontWeight=400, anchor="start", frame="group"),
    )
    return chart.to_dict(validate=False)  # validation takes half of a page's time; a test does it
