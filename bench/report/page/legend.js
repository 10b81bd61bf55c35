// The buttons that hide and show policies, and what the other marks of the charts mean.

function buildLegend(host) {
  const buttons = new Map();
  const list = html("ul", { class: "legend" });
  for (const policy of policies.values()) {
    const button = html(
      "button",
      {
        type: "button",
        class: policy.strong ? "strong" : "",
        "aria-pressed": "true",
        title: policy.about,
        onclick: () => toggle(policy.name),
        onpointerenter: () => highlight(policy.name),
        onpointerleave: () => highlight(null),
      },
      swatch(policy),
      policy.title,
    );
    buttons.set(policy.name, button);
    list.append(html("li", {}, button));
  }
  const strong = policyNames.filter((name) => policies.get(name).strong);
  list.append(
    html(
      "li",
      {},
      html("button", { type: "button", class: "plain", onclick: () => change({ hidden: new Set() }) }, "Show all"),
    ),
    html(
      "li",
      {},
      html(
        "button",
        {
          type: "button",
          class: "plain",
          onclick: () => change({ hidden: new Set(policyNames.filter((name) => !strong.includes(name))) }),
        },
        "Only ours and the baseline",
      ),
    ),
  );
  const key = html(
    "p",
    { class: "chart-key" },
    html("span", {}, html("i", { class: "front-key" }), "Pareto front: no mark has more quality for less"),
    html("span", {}, html("i", { class: "reference-key" }), "the uncached video itself, where the metric has one"),
  );
  host.append(list, key);
  listen(() => {
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(!state.hidden.has(name)));
  });

  function toggle(name) {
    const hidden = new Set(state.hidden);
    if (!hidden.delete(name)) hidden.add(name);
    change({ hidden });
  }
}

function buildQualityControls(host) {
  const intervals = html("input", { type: "checkbox", onchange: () => change({ intervals: intervals.checked }) });
  host.append(metricField("Quality"), html("label", { class: "check" }, intervals, "95 % intervals of all policies"));
}

/** The panel's title and its choice of cost; options are [key, text]. */
function buildPanelTitle(host, text, choice, options) {
  const known = options.filter(([key]) => quantities.has(key));
  if (!known.some(([key]) => key === state[choice])) state[choice] = known[0][0];
  host.append(html("span", {}, text));
  if (known.length > 1) host.append(segments(text, known, state[choice], (key) => change({ [choice]: key }), true));
}
