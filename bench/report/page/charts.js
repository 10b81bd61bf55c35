// The charts that Vega draws: their choices, their tooltips, their size.

const NARROW = 760; // pixels; narrower pages show the differences of one budget
const NAMES_WIDTH = 215; // of the policies beside the differences

/** Draw a specification into an element; `rows` gives a tooltip's rows for a point. Resolves to Vega's view. */
async function drawChart(host, spec, rows) {
  const tooltip = (_, event, item, value) => {
    if (value && item.datum.policy) showTooltip(event.target, pointTitle(item.datum), rows(item.datum));
    else hideTooltip();
  };
  // Expressions are interpreted (`ast`), as the page's policy forbids to evaluate text.
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, logLevel: 1, tooltip };
  const { view } = await vegaEmbed(host, { ...spec, datasets: { points: charts.points } }, options);
  return view;
}

/** Set signals of a chart. */
async function setSignals(drawn, signals) {
  const view = await drawn;
  for (const [name, value] of Object.entries(signals)) view.signal(name, value);
  view.resize().runAsync();
}

function buildQuality(host, controls) {
  const intervals = html("input", { type: "checkbox", onchange: () => change({ intervals: intervals.checked }) });
  const against = selectField(
    "Against",
    costs.map((cost) => [cost.key, withParentheses(cost.title, cost.unit)]),
    state.cost,
    (cost) => change({ cost }),
  );
  controls.append(
    metricField("Quality"),
    against.field,
    html("label", { class: "check" }, intervals, "95 % intervals of all policies"),
  );
  const view = drawChart(host, charts.quality, qualityRows);
  listen((patch) => setSignals(view, patch));
}

function buildGains(host, controls) {
  let budget = budgets[Math.floor(budgets.length / 2)];
  const options = budgets.map((value) => [value, String(value)]);
  const choice = segments("Budget", options, budget, (value) => {
    budget = value;
    fit();
  });
  controls.append(metricField("Quality"), choice);
  const view = drawChart(host, charts.gains, gainRows);
  const fit = () => {
    const isNarrow = host.clientWidth < NARROW;
    choice.hidden = !isNarrow;
    const columns = isNarrow ? 1 : budgets.length;
    const child_width = Math.max(80, Math.floor((host.clientWidth - NAMES_WIDTH) / columns) - 22);
    setSignals(view, { child_width, budget: isNarrow ? budget : 0 });
  };
  let width = 0;
  new ResizeObserver(() => {
    if (host.clientWidth === width) return;
    width = host.clientWidth;
    requestAnimationFrame(fit);
  }).observe(host);
  listen(({ metric }) => {
    if (metric) setSignals(view, { metric });
  });
}

function pointTitle(row) {
  return row.budget === null ? row.policy : `${row.policy}, budget ${row.budget}`;
}

/** An estimate of a chart's row, or null. */
function estimateOf(row, key) {
  const [mean, low, high] = ["mean", "low", "high"].map((name) => row[`${key}_${name}`]);
  return mean === undefined ? null : { mean, low, high };
}

function qualityRows(row) {
  const metric = quantities.get(state.metric);
  const rows = estimateRows(metric.title, metric, estimateOf(row, metric.key));
  const gain = estimateOf(row, `gain_${metric.key}`);
  if (gain) rows.push(...estimateRows(`over ${baseline.title}`, metric, gain, gainNumber));
  for (const key of new Set([state.cost, "compute", "denoise_seconds", "speedup"])) {
    const [quantity, estimate] = [quantities.get(key), estimateOf(row, key)];
    if (estimate) rows.push([quantity.title, withUnit(valueText(quantity, estimate.mean), quantity.unit)]);
  }
  return rows;
}

function gainRows(row) {
  const metric = quantities.get(state.metric);
  const gain = estimateOf(row, `gain_${metric.key}`);
  return [...estimateRows("Difference", metric, gain, gainNumber), ["Compute", `${fixed(row.steps, 1)} steps`]];
}
