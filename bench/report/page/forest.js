// Differences to the baseline at equal compute: a row per policy, a column per budget, one scale for all.

const FOREST_TICKS = 5; // per column
const FOREST_NAMES = 3; // of ticks that fit; of more, every other one is named

function buildForest(host, controls) {
  let selected = budgets[Math.floor(budgets.length / 2)];
  const choice = segments(
    "Budget",
    budgets.map((budget) => [budget, String(budget)]),
    selected,
    (budget) => {
      selected = budget;
      draw();
    },
  );
  choice.classList.add("only-narrow");
  controls.append(metricField("Quality"), choice);
  listen((patch) => {
    if ("metric" in patch) draw();
  });
  draw();

  function draw() {
    const metric = quantities.get(state.metric);
    const rows = forestRows(metric);
    if (!rows.length) {
      host.replaceChildren(html("p", { class: "notice" }, `There are no differences in ${metric.title}.`));
      return;
    }
    const gains = rows
      .flatMap((row) => row.points)
      .map((point) => point.gain?.[metric.key])
      .filter(Boolean);
    const domain = extent([0, ...gains.flatMap((gain) => [gain.low, gain.high])], 0.04);
    const place = linear(domain, [0, 100]);
    const marks = ticks(...domain, FOREST_TICKS);
    const shown = (budget) => ({ "data-budget": budget, class: budget === selected ? "selected" : "" });
    const head = html(
      "tr",
      {},
      html("th", { class: "name", scope: "col" }, "Policy"),
      budgets.map((budget) => html("th", { scope: "col", ...shown(budget) }, `${budget} steps`)),
    );
    const body = rows.map(({ policy, points }) =>
      html(
        "tr",
        { class: policy.ours ? "ours" : "", "--color": policy.color },
        html("th", { class: "name", scope: "row" }, policy.title),
        budgets.map((budget) => {
          const cells = points
            .filter((point) => budgetOf(point) === budget)
            .map((point) => forestCell(point, metric, place, marks));
          return html(
            "td",
            shown(budget),
            cells.length ? cells : html("div", { class: "row" }, html("span", { class: "off" }, MISSING)),
          );
        }),
      ),
    );
    const axis = budgets.map((budget) =>
      html("td", shown(budget), html("div", { class: "row" }, forestAxis(marks, place))),
    );
    const side = metric.better === "lower" ? `← better than ${baseline.title}` : `better than ${baseline.title} →`;
    host.replaceChildren(
      html(
        "table",
        { class: "forest" },
        html(
          "caption",
          { class: "caption", style: "caption-side: bottom; text-align: left; padding-top: 8px" },
          `${withParentheses(metric.title, metric.unit)}: difference to ${baseline.title}, the vertical line; ${side}`,
        ),
        html("thead", {}, head),
        html("tbody", {}, body),
        html("tfoot", {}, html("tr", {}, html("td", { class: "name" }), axis)),
      ),
    );
  }
}

/** Policies with their points, the largest mean gain first; the baseline is the zero line. */
function forestRows(metric) {
  const good = metric.better === "lower" ? -1 : 1;
  const rows = [...policies.values()]
    .filter((policy) => policy.name !== bench.baseline)
    .map((policy) => {
      const points = bench.points.filter((point) => point.policy === policy.name);
      const gains = points
        .map((point) => point.gain?.[metric.key])
        .filter(Boolean)
        .map((gain) => gain.mean);
      return { policy, points, mean: gains.length ? gains.reduce((a, b) => a + b) / gains.length : null };
    });
  if (rows.every((row) => row.mean === null)) return [];
  return rows.sort(
    (a, b) => (b.mean === null ? -Infinity : good * b.mean) - (a.mean === null ? -Infinity : good * a.mean) || 0,
  );
}

function placed(node, left) {
  node.style.left = `${left}%`;
  return node;
}

/** Names of the ticks, zero among them. */
function forestAxis(marks, place) {
  const zero = marks.values.findIndex((value) => Math.abs(value) < 1e-9);
  const stride = marks.values.length > FOREST_NAMES ? 2 : 1;
  const named = marks.values.filter((_, index) => (index - zero) % stride === 0);
  return html(
    "div",
    { class: "plot", "aria-hidden": "true" },
    named.map((value) => placed(html("span", {}, signed(value, marks.digits)), place(value))),
  );
}

function forestCell(point, metric, place, marks) {
  const gain = point.gain?.[metric.key];
  const compute = computeOf(point);
  const away = Math.abs(compute - budgetOf(point)) > 0.5 ? `at ${fixed(compute, 1)} steps` : null;
  if (!gain) {
    return html("div", { class: "row" }, html("span", { class: "off" }, away ? `${away}: none` : "no equal compute"));
  }
  const text = estimateText(metric, gain, gainNumber);
  const unclear = gain.low <= 0 && gain.high >= 0;
  const rows = [...estimateRows("Difference", metric, gain, gainNumber), ["Compute", `${fixed(compute, 1)} steps`]];
  const bar = placed(html("i", { class: "bar" }), place(gain.low));
  bar.style.width = `${place(gain.high) - place(gain.low)}%`;
  const plot = html(
    "div",
    {
      class: "plot",
      tabindex: "0",
      role: "img",
      "aria-label": `${pointTitle(point)}: ${text}`,
      onpointerenter: () => show(),
      onpointerdown: () => show(),
      onpointerleave: () => hideTooltip(plot),
      onfocus: () => show(),
      onblur: () => hideTooltip(plot),
    },
    marks.values.map((value) => placed(html("i", { class: "tick" }), place(value))),
    placed(html("i", { class: "zero" }), place(0)),
    bar,
    placed(html("i", { class: unclear ? "dot unclear" : "dot" }), place(gain.mean)),
  );
  const show = () => showTooltip(plot, pointTitle(point), rows);
  const interval = html("small", {}, ` ${gainNumber(metric, gain.low)} to ${gainNumber(metric, gain.high)}`);
  return html(
    "div",
    { class: "row" },
    plot,
    html("span", { class: "amount" }, gainNumber(metric, gain.mean), interval),
    away ? html("span", { class: "away" }, away) : null,
  );
}
