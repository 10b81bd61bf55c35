// What the page shows: the bench's content, how each policy is drawn, and what the reader has chosen.

const bench = JSON.parse(document.getElementById("bench-data").textContent);
const videoFiles = JSON.parse(document.getElementById("video-data").textContent);

const { budgets, charts } = bench;

const costKeys = new Set(bench.costs.map((cost) => cost.key));
const metrics = bench.metrics.filter((metric) => !costKeys.has(metric.key));
const costs = bench.costs.filter((cost) => charts.points.some((point) => `${cost.key}_mean` in point));
const quantities = new Map([...costs, ...metrics].map((quantity) => [quantity.key, quantity]));

const policies = new Map(bench.policies.map((policy) => [policy.name, policy]));
const policyNames = [...policies.keys()];
const baseline = policies.get(bench.baseline);

function referenceTitle(name) {
  const reference = bench.references.find((entry) => entry.name === name);
  return reference ? reference.title : name;
}

function valueText(quantity, value) {
  if (value === null || value === undefined) return MISSING;
  return fixed(value, quantity.digits);
}

/** An estimate as rows of a tooltip. */
function estimateRows(title, quantity, estimate, write = valueText) {
  const rows = [[title, withUnit(write(quantity, estimate.mean), quantity.unit)]];
  if (estimate.low !== estimate.high)
    rows.push(["95 % interval", `${write(quantity, estimate.low)} to ${write(quantity, estimate.high)}`]);
  return rows;
}

function gainNumber(quantity, value) {
  return signed(value, quantity.digits);
}

function withParentheses(title, unit) {
  return unit ? `${title} (${unit})` : title;
}

const state = {
  metric: metrics[0].key,
  cost: quantities.has("compute") ? "compute" : costs[0].key,
  intervals: false,
};
const listeners = [];

function listen(listener) {
  listeners.push(listener);
}

function change(patch) {
  Object.assign(state, patch);
  for (const listener of listeners) listener(patch);
}

/** A drop-down list of the metric; all of them show the same choice. */
function metricField(label) {
  const { field, select } = selectField(
    label,
    metrics.map((metric) => [metric.key, metric.title]),
    state.metric,
    (metric) => change({ metric }),
  );
  listen(() => {
    select.value = state.metric;
  });
  return field;
}
