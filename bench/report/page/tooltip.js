// One tooltip for the whole page. What it says is in the aria-label of what it belongs to, too.

const tooltip = document.getElementById("tooltip");
let tooltipOwner = null;

/** Show a title and [name, value] rows beside an element. */
function showTooltip(owner, title, rows) {
  tooltipOwner = owner;
  const list = html("dl", {}, rows.map(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]).flat());
  tooltip.replaceChildren(html("strong", {}, title), list);
  tooltip.hidden = false;
  placeTooltip();
}

/** Above what it belongs to, or below where there is no room. */
function placeTooltip() {
  const box = tooltipOwner.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const left = Math.min(
    Math.max(8, box.left + box.width / 2 - width / 2),
    document.documentElement.clientWidth - width - 8,
  );
  const above = box.top - height - 12;
  tooltip.style.transform = `translate(${Math.round(left)}px, ${Math.round(above < 8 ? box.bottom + 12 : above)}px)`;
}

function hideTooltip(owner = tooltipOwner) {
  if (owner !== tooltipOwner) return;
  tooltipOwner = null;
  tooltip.hidden = true;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTooltip();
});
// A finger that is lifted hides nothing, so a tap anywhere else does.
document.addEventListener(
  "pointerdown",
  (event) => {
    if (tooltipOwner && !event.target.closest(".vega-host, .strip")) hideTooltip();
  },
  { capture: true },
);
// Focus scrolls to what it is on, and the tooltip goes along.
document.addEventListener(
  "scroll",
  () => {
    if (tooltipOwner?.isConnected) placeTooltip();
  },
  { passive: true, capture: true },
);
