// Puts the parts into the page.

buildQuality(part("quality-chart"), part("quality-controls"));
buildGains(part("gains"), part("gains-controls"));
buildTable(part("table"), part("table-controls"));
if (bench.showcase.length) new Showcase(part("showcase"));
else part("showcase").append(html("p", { class: "notice" }, "No videos were kept."));
