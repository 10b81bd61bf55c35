// Puts the parts into the page.

buildQualityControls(part("quality-controls"));
buildPanelTitle(part("compute-title"), "Against compute", "compute", [
  ["compute", "FLOPs"],
  ["computed_steps", "Steps"],
]);
buildPanelTitle(part("time-title"), "Against time", "time", [
  ["denoise_seconds", "Seconds"],
  ["speedup", "Speedup"],
]);
new Panel(part("compute-chart"), "compute").draw();
new Panel(part("time-chart"), "time").draw();
buildLegend(part("legend"));
buildForest(part("gains"), part("gains-controls"));
buildTable(part("table"), part("table-controls"));
if (bench.showcase.length) new Showcase(part("showcase"));
else part("showcase").append(html("p", { class: "notice" }, "No videos were kept."));
