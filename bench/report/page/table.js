// The table of all numbers: sorted by a click on a column's head, narrowed down to a budget and a metric.

function buildTable(table, controls) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  controls.append(
    segments("Budget", [["", "All"], ...budgets.map((value) => [value, String(value)])], "", (budget) => {
      for (const row of rows) row.hidden = Boolean(budget && row.dataset.budget && row.dataset.budget !== String(budget));
    }),
    metricField("Differences in"),
  );
  for (const head of heads) head.querySelector("button")?.addEventListener("click", () => sort(head));
  listen(({ metric }) => {
    if (metric) showMetric(metric);
  });
  showMetric(state.metric);

  /** The columns of one metric's differences and worst videos. */
  function showMetric(metric) {
    for (const cell of table.querySelectorAll("[data-metric]")) cell.hidden = cell.dataset.metric !== metric;
  }

  /** What is best comes first, and a second click turns it round; missing values come last in both directions. */
  function sort(head) {
    const order = head.getAttribute("aria-sort");
    const isDown = order ? order === "ascending" : head.dataset.better === "higher";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const at = head.cellIndex;
    const value = (row) => (row.cells[at].dataset.value ? Number(row.cells[at].dataset.value) : null);
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return isDown ? y - x : x - y;
    };
    body.append(...[...rows].sort(compare));
  }
}
