// What is said about a point of a chart.

function pointTitle(point) {
  const title = policies.get(point.policy).title;
  return point.budget === null ? title : `${title}, budget ${point.budget}`;
}

function markRows({ point }, cost, metric, onFront) {
  const keys = [...new Set([cost.key, "compute", "denoise_seconds", "speedup"])].filter((key) => point.values[key]);
  const rows = estimateRows(metric.title, metric, point.values[metric.key]);
  const gain = point.policy === bench.baseline ? null : point.gain?.[metric.key];
  if (gain) rows.push(...estimateRows(`over ${baseline.title}`, metric, gain, gainNumber));
  rows.push(
    ...keys.map((key) => [
      quantities.get(key).title,
      withUnit(valueText(quantities.get(key), point.values[key].mean), quantities.get(key).unit),
    ]),
  );
  if (onFront) rows.push(["Pareto front", "yes"]);
  return rows;
}

function axisTitle(cost) {
  const names = {
    compute: "Compute, in equivalent steps (by FLOPs)",
    computed_steps: "Computed steps",
    denoise_seconds: "Denoising time, seconds",
    speedup: "Speedup over uncached (×)",
  };
  return names[cost.key] ?? withUnit(cost.title, cost.unit);
}
