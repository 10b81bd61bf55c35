// What the page shows: the bench's content, how each policy is drawn, and what the reader has chosen.

const bench = JSON.parse(document.getElementById("bench-data").textContent);
const videoFiles = JSON.parse(document.getElementById("video-data").textContent);

const costKeys = new Set(bench.costs.map((cost) => cost.key));
const metrics = bench.metrics.filter((metric) => !costKeys.has(metric.key));
const costs = bench.costs.filter((cost) => bench.points.some((point) => point.values[cost.key]));
const quantities = new Map([...costs, ...metrics].map((quantity) => [quantity.key, quantity]));
const budgets = knownBudgets();

const OURS_COLORS = 3;
const OTHER_COLORS = 12;
const policies = styledPolicies();
const policyNames = [...policies.keys()];
const baseline = policies.get(bench.baseline);

/** The bench's budgets; where it has none, those of its points, or the whole steps that their settings came to. */
function knownBudgets() {
  if (bench.setting.budgets?.length) return bench.setting.budgets;
  const given = bench.points.map((point) => point.budget).filter((budget) => budget !== null);
  const numbers = given.length ? given : bench.points.map((point) => Math.round(computeOf(point)));
  return [...new Set(numbers)].sort((a, b) => a - b);
}

function computeOf(point) {
  return (point.values.compute ?? point.values.computed_steps).mean;
}

function styledPolicies() {
  let ours = 0;
  let others = 0;
  return new Map(
    bench.policies.map((policy, index) => {
      const isBaseline = policy.name === bench.baseline;
      let color = "var(--base)";
      if (policy.ours) color = `var(--ours-${ours++ % OURS_COLORS})`;
      else if (!isBaseline) color = `var(--other-${others++ % OTHER_COLORS})`;
      return [policy.name, { ...policy, color, marker: index, strong: Boolean(policy.ours) || isBaseline }];
    }),
  );
}

function referenceTitle(name) {
  const reference = bench.references.find((entry) => entry.name === name);
  return reference ? reference.title : name;
}

function valueText(quantity, value) {
  if (value === null || value === undefined) return MISSING;
  return fixed(value, quantity.digits);
}

/** "41.2 dB", or with its interval "41.2 dB (40.1 to 42.3)". */
function estimateText(quantity, estimate, write = valueText) {
  if (!estimate) return MISSING;
  const mean = withUnit(write(quantity, estimate.mean), quantity.unit);
  if (estimate.low === estimate.high) return mean;
  return `${mean} (${write(quantity, estimate.low)} to ${write(quantity, estimate.high)})`;
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

function compareText(quantity) {
  return quantity.better === "lower" ? "lower is better" : "higher is better";
}

/** The budget that a point is shown at: its own, or without one the nearest to what it computed. */
function budgetOf(point) {
  if (point.budget !== null || point.reference) return point.budget;
  const compute = computeOf(point);
  return budgets.reduce(
    (best, budget) => (Math.abs(budget - compute) < Math.abs(best - compute) ? budget : best),
    budgets[0],
  );
}

const state = {
  metric: metrics[0].key,
  compute: "compute",
  time: "denoise_seconds",
  hidden: new Set(),
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
