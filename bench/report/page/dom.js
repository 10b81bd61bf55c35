// Elements, and numbers as text.

const MISSING = "–";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function part(name) {
  return document.querySelector(`[data-part="${name}"]`);
}

function fixed(value, digits) {
  if (value === null || value === undefined) return MISSING;
  const text = value.toFixed(digits);
  // No "-0.0": what rounds to zero has no sign.
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

function signed(value, digits) {
  const text = fixed(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

/** Three significant digits, and all digits before the point. */
function significant(value) {
  if (value === null || value === undefined) return MISSING;
  if (value === 0) return "0";
  return fixed(value, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
}

function withUnit(text, unit) {
  return unit && text !== MISSING ? `${text} ${unit}` : text;
}

/** A drop-down list with its label; options are [value, text]. */
function selectField(label, options, value, changed) {
  const select = html("select", { onchange: () => changed(select.value) });
  for (const [key, text] of options) select.append(html("option", { value: key, selected: key === value }, text));
  return { field: html("label", { class: "field" }, html("span", {}, label), select), select };
}

/** A row of radio buttons; options are [value, text]. */
function segments(label, options, value, changed, hideLabel = false) {
  const name = `segments-${label}-${(segments.count = (segments.count ?? 0) + 1)}`;
  const row = html("div", { class: "segments" });
  for (const [key, text] of options) {
    const input = html("input", { type: "radio", name, value: key, onchange: () => changed(key) });
    input.checked = key === value;
    row.append(html("label", {}, input, html("span", {}, text)));
  }
  if (hideLabel) return fill(row, { role: "radiogroup", "aria-label": label }, []);
  return html("fieldset", { class: "field" }, html("legend", {}, label), row);
}
