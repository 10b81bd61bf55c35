// A video's schedule as a strip of cells, one per step: computed, reused, or computed in part.

const DENSE = 60; // steps from which cells have no gaps

/** The strip of a video, or null where it has no steps to show. */
function buildStrip(video, title, color) {
  const { steps } = video;
  const count = steps.index?.length ?? 0;
  if (!count) return null;
  const computed = steps.computed.filter(Boolean).length;
  const strip = html("div", {
    class: count > DENSE ? "strip dense" : "strip",
    role: "group",
    "--cell": color,
    "aria-label": `Schedule of ${title}: ${computed} of ${count} steps computed. Arrow keys walk along it.`,
  });
  for (let at = 0; at < count; at++) strip.append(buildCell(steps, at));
  strip.addEventListener("focusin", (event) => select(event.target));
  strip.addEventListener("focusout", () => select(null));
  strip.addEventListener("keydown", (event) => walkStrip(event, strip));
  const point = (event) => {
    // A finger's events stay with the cell it came down on, so it is looked up.
    const cell = document.elementFromPoint(event.clientX, event.clientY);
    if (cell?.parentElement === strip) select(cell);
  };
  strip.addEventListener("pointermove", point);
  strip.addEventListener("pointerdown", point);
  strip.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") select(null);
  });
  return strip;

  function select(cell) {
    strip.querySelector(".current")?.classList.remove("current");
    if (!cell) {
      hideTooltip();
      return;
    }
    cell.classList.add("current");
    const at = [...strip.children].indexOf(cell);
    showTooltip(cell, stepTitle(steps, at), stepRows(steps, at));
  }
}

function buildCell(steps, at) {
  const share = steps.computed_share?.[at] ?? null;
  const isPartial = share !== null && share > 0 && share < 1;
  const kind = isPartial ? "partial" : steps.computed[at] ? "computed" : "reused";
  const label = [stepTitle(steps, at), ...stepRows(steps, at).map((row) => row.join(" "))].join("; ");
  return html("span", {
    class: `cell ${kind}`,
    role: "img",
    tabindex: at === 0 ? "0" : "-1",
    "aria-label": label,
    "--share": isPartial ? `${100 * share}%` : null,
  });
}

function walkStrip(event, strip) {
  const cells = [...strip.children];
  const at = cells.indexOf(document.activeElement);
  const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: cells.length - 1 }[event.key];
  if (next === undefined || !cells[next]) return;
  event.preventDefault();
  cells[at].setAttribute("tabindex", "-1");
  cells[next].setAttribute("tabindex", "0");
  cells[next].focus();
}

function stepTitle(steps, at) {
  const share = steps.computed_share?.[at] ?? null;
  if (share !== null && share > 0 && share < 1) return `Step ${steps.index[at]}: ${Math.round(100 * share)} % computed`;
  return `Step ${steps.index[at]}: ${steps.computed[at] ? "computed" : "reused"}`;
}

function stepRows(steps, at) {
  const read = (key) => steps[key]?.[at] ?? null;
  const rows = [
    ["Timestep", read("timestep"), (value) => fixed(value, 1)],
    ["Distance", read("distance"), significant],
    ["Compared value", read("value"), significant],
    ["Steps until the next", read("rate"), String],
    ["Bridge weight", read("bridge_weight"), (value) => fixed(value, 2)],
    ["Time", read("milliseconds"), (value) => `${significant(value)} ms`],
  ];
  return rows.filter(([, value]) => value !== null).map(([name, value, write]) => [name, write(value)]);
}
