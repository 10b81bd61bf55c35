// All points as a table: sorted by a click on a column's head, narrowed down to a budget.

// Policies are set to about equal ones, so that the smallest of a budget is no merit.
const GIVEN = new Set(["computed_steps", "compute", "tflops"]);

function buildTable(host, controls) {
  let budget = null;
  let sorted = { key: "budget", down: false };
  controls.append(
    segments("Budget", [[null, "All"], ...budgets.map((value) => [value, String(value)])], budget, (value) => {
      budget = value;
      draw();
    }),
    metricField("Differences in"),
  );
  const scroller = html("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "All points" });
  host.append(scroller);
  listen((patch) => {
    if ("metric" in patch) draw();
  });
  draw();

  function draw() {
    const columns = tableColumns();
    const column = columns.find((entry) => entry.key === sorted.key) ?? columns[1];
    const rows = tableRows().filter((row) => budget === null || row.reference || budgetOf(row) === budget);
    rows.sort((a, b) => compareValues(column.value(a), column.value(b), sorted.down) || a.order - b.order);
    const best = bestOfBudgets(columns);
    const head = columns.map((entry) => {
      const order = entry.key === sorted.key ? (sorted.down ? "descending" : "ascending") : null;
      const arrow = order ? (sorted.down ? "\u00a0↓" : "\u00a0↑") : "";
      const title = [`${entry.title}${arrow}`, entry.unit ? html("span", { class: "unit" }, entry.unit) : null];
      return html(
        "th",
        { scope: "col", "aria-sort": order },
        entry.value
          ? html("button", { type: "button", onclick: () => sort(entry), "data-key": entry.key }, title)
          : title,
      );
    });
    const body = rows.map((row) =>
      html(
        "tr",
        { class: rowClass(row), "data-policy": row.policy ?? row.name },
        columns.map((entry) =>
          entry.cell(row, row.point !== undefined && best.get(entry.key)?.get(budgetOf(row)) === row.point),
        ),
      ),
    );
    const focused = document.activeElement?.dataset?.key;
    scroller.replaceChildren(
      html("table", { class: "numbers" }, html("thead", {}, html("tr", {}, head)), html("tbody", {}, body)),
    );
    if (focused) scroller.querySelector(`button[data-key="${focused}"]`)?.focus({ preventScroll: true });
  }

  function sort(column) {
    // What is best comes first, and a second click turns it round.
    sorted =
      sorted.key === column.key
        ? { key: column.key, down: !sorted.down }
        : { key: column.key, down: column.better === "higher" };
    draw();
  }
}

function tableRows() {
  const points = bench.points.map((point, order) => ({ ...point, point, order }));
  const references = bench.references.map((reference, index) => ({
    ...reference,
    reference: true,
    budget: null,
    order: index - bench.references.length,
  }));
  return [...references, ...points];
}

function tableColumns() {
  const metric = quantities.get(state.metric);
  const columns = [
    {
      key: "policy",
      title: "Policy",
      better: "lower",
      value: (row) => (row.reference ? -1 : policyNames.indexOf(row.policy)),
      cell: nameCell,
    },
    {
      key: "budget",
      title: "Budget",
      unit: "steps",
      better: "lower",
      value: (row) => (row.reference ? 0 : row.budget),
      cell: (row) => html("td", {}, row.budget === null ? MISSING : String(row.budget)),
    },
    estimateColumn(
      "gain",
      { ...metric, title: `${metric.title} over ${baseline.title}` },
      (row) => row.gain?.[metric.key],
      gainNumber,
      true,
    ),
  ];
  for (const quantity of [...metrics, ...costs])
    columns.push(estimateColumn(quantity.key, quantity, (row) => row.values[quantity.key], valueText));
  columns.push({
    key: "worst",
    title: `Worst video's ${metric.title}`,
    unit: metric.unit,
    better: metric.better,
    value: (row) => row.worst?.[metric.key] ?? null,
    cell: (row) => html("td", {}, valueText(metric, row.worst?.[metric.key])),
  });
  columns.push({
    key: "videos",
    title: "Videos",
    better: "higher",
    value: (row) => row.num_videos ?? null,
    cell: (row) => html("td", {}, String(row.num_videos ?? MISSING)),
  });
  columns.push({ key: "options", title: "Options", cell: optionsCell });
  return columns;
}

function estimateColumn(key, quantity, estimate, write, isGain = false) {
  const good = quantity.better === "lower" ? -1 : 1;
  return {
    key,
    title: quantity.title,
    unit: quantity.unit,
    better: quantity.better,
    quantity,
    value: (row) => estimate(row)?.mean ?? null,
    cell: (row, best) => {
      const entry = estimate(row);
      if (!entry) return html("td", {}, MISSING);
      const classes = [
        best ? "best" : "",
        isGain && good * entry.low > 0 && good * entry.high > 0 ? "better" : "",
        isGain && good * entry.low < 0 && good * entry.high < 0 ? "worse" : "",
      ];
      const interval =
        entry.low === entry.high
          ? null
          : html("small", {}, `${write(quantity, entry.low)} to ${write(quantity, entry.high)}`);
      return html("td", { class: classes.join(" ").trim() || null }, write(quantity, entry.mean), interval);
    },
  };
}

/** Column key -> budget -> the point with the best mean. */
function bestOfBudgets(columns) {
  const best = new Map();
  for (const column of columns.filter((entry) => entry.quantity && !GIVEN.has(entry.key))) {
    const good = column.better === "lower" ? -1 : 1;
    const leaders = new Map();
    for (const point of bench.points) {
      const [value, leader] = [column.value(point), leaders.get(budgetOf(point))];
      if (value !== null && (!leader || good * value > good * column.value(leader)))
        leaders.set(budgetOf(point), point);
    }
    best.set(column.key, leaders);
  }
  return best;
}

/** Missing values come last in both directions. */
function compareValues(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  return down ? b - a : a - b;
}

function rowClass(row) {
  if (row.reference) return "reference";
  return policies.get(row.policy).ours ? "ours" : "";
}

function nameCell(row) {
  if (row.reference) return html("th", { scope: "row" }, row.title);
  const policy = policies.get(row.policy);
  return html("th", { scope: "row" }, swatch(policy), policy.title);
}

function optionsCell(row) {
  if (!row.options) return html("td", { class: "options" }, MISSING);
  return html(
    "td",
    { class: "options" },
    html("details", {}, html("summary", {}, "show"), html("pre", {}, JSON.stringify(row.options, null, 1))),
  );
}
