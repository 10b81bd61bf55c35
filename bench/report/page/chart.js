// A chart of the chosen metric against a cost: a curve per policy, the uncached reference, the Pareto front.

const MARGIN = { top: 38, right: 18, bottom: 46, left: 48 };
const SLACK = 0.02; // of the width: a mark this much dearer than a worse one is still on the front
const HEADROOM = 0.1; // of the values' range, for the names of what is best
const NARROW = 480; // pixels; narrower charts have room for short names only
const REACH = 36; // pixels from a mark at which the pointer finds it
const panels = [];

class Panel {
  /** `choice` is the key of the state that names this panel's cost. */
  constructor(host, choice) {
    this.host = host;
    this.choice = choice;
    this.width = 0;
    this.current = null;
    new ResizeObserver(() => {
      if (host.clientWidth !== this.width) this.draw();
    }).observe(host);
    listen(() => this.draw());
    panels.push(this);
  }

  draw() {
    this.width = this.host.clientWidth;
    if (!this.width) return;
    this.cost = quantities.get(state[this.choice]);
    this.metric = quantities.get(state.metric);
    this.height = Math.round(Math.min(480, Math.max(330, this.width * 0.85)));
    this.marks = this.visiblePoints();
    const label = `${this.metric.title} against ${this.cost.title}. Arrow keys walk along the marks.`;
    this.root = svg("svg", {
      class: state.intervals ? "chart with-intervals" : "chart",
      role: "group",
      "aria-label": label,
      viewBox: `0 0 ${this.width} ${this.height}`,
      width: this.width,
      height: this.height,
    });
    this.setScales();
    this.obstacles = []; // boxes that names have to keep off
    this.root.append(this.axes(), ...this.reference(), this.front(), ...this.curves());
    this.listenToPointer();
    this.host.replaceChildren(this.root);
  }

  visiblePoints() {
    return bench.points
      .filter(
        (point) => !state.hidden.has(point.policy) && point.values[this.cost.key] && point.values[this.metric.key],
      )
      .map((point) => ({
        point,
        policy: policies.get(point.policy),
        x: point.values[this.cost.key].mean,
        y: point.values[this.metric.key],
      }));
  }

  setScales() {
    const uncached = this.uncached();
    const ys = this.marks.flatMap(({ y, policy }) => (state.intervals || policy.strong ? [y.low, y.high] : [y.mean]));
    if (uncached) ys.push(uncached.mean);
    const xDomain = this.marks.length
      ? extent(
          this.marks.map((mark) => mark.x),
          0.06,
        )
      : [0, 1];
    const yDomain = ys.length ? extent(ys, 0.05) : [0, 1];
    const headroom = HEADROOM * (yDomain[1] - yDomain[0]);
    if (this.metric.better === "lower") yDomain[0] -= headroom;
    else yDomain[1] += headroom;
    this.right = this.width - MARGIN.right;
    this.bottom = this.height - MARGIN.bottom;
    this.xScale = linear(xDomain, [MARGIN.left, this.right]);
    this.yScale = linear(yDomain, [this.bottom, MARGIN.top]);
    this.xTicks = ticks(...xDomain, Math.max(4, Math.floor(this.width / 58)));
    this.yTicks = ticks(...yDomain, 6);
    for (const mark of this.marks) Object.assign(mark, { left: this.xScale(mark.x), top: this.yScale(mark.y.mean) });
  }

  uncached() {
    return bench.references.find((reference) => reference.name === "uncached")?.values[this.metric.key];
  }

  axes() {
    const group = svg("g", { "aria-hidden": "true" });
    for (const value of this.yTicks.values) {
      const y = this.yScale(value);
      group.append(
        svg("line", { class: "grid", x1: MARGIN.left, x2: this.right, y1: y, y2: y }),
        svg("text", { x: MARGIN.left - 9, y: y + 4.5, "text-anchor": "end" }, fixed(value, this.yTicks.digits)),
      );
    }
    group.append(svg("line", { class: "axis", x1: MARGIN.left, x2: this.right, y1: this.bottom, y2: this.bottom }));
    for (const value of this.xTicks.values) {
      const x = this.xScale(value);
      group.append(
        svg("line", { class: "axis", x1: x, x2: x, y1: this.bottom, y2: this.bottom + 5 }),
        svg("text", { x, y: this.bottom + 20, "text-anchor": "middle" }, fixed(value, this.xTicks.digits)),
      );
    }
    group.append(
      svg("text", { x: this.right, y: this.height - 6, "text-anchor": "end" }, axisTitle(this.cost)),
      svg(
        "text",
        { x: 0, y: 14 },
        `${withParentheses(this.metric.title, this.metric.unit)}, ${compareText(this.metric)}`,
      ),
    );
    return group;
  }

  reference() {
    const uncached = this.uncached();
    if (!uncached) return [];
    const y = this.yScale(uncached.mean);
    const band = [uncached.high, uncached.low].map((value) =>
      Math.min(this.bottom, Math.max(MARGIN.top, this.yScale(value))),
    );
    // Below the line where there is no room above it.
    const labelY = y - MARGIN.top < 22 ? y + 17 : y - 7;
    const value = withUnit(valueText(this.metric, uncached.mean), this.metric.unit);
    const text = this.width < NARROW ? "Uncached" : `${referenceTitle("uncached")}: ${value}`;
    const left = MARGIN.left + 6;
    const width = labelWidth(text);
    this.obstacles.push(boxOf(left + width, labelY, width));
    return [
      svg("rect", {
        class: "reference-band",
        x: MARGIN.left,
        width: this.right - MARGIN.left,
        y: band[0],
        height: Math.max(0, band[1] - band[0]),
      }),
      svg("line", { class: "reference", x1: MARGIN.left, x2: this.right, y1: y, y2: y }),
      svg("text", { class: "label", x: left, y: labelY }, text),
    ];
  }

  /** The marks of which no other is better for about as little, in order of cost. */
  frontMarks() {
    const cheap = this.cost.better === "higher" ? -1 : 1;
    const good = this.metric.better === "lower" ? -1 : 1;
    const slack = SLACK * (this.right - MARGIN.left);
    const isBeaten = (mark) =>
      this.marks.some((other) => good * other.y.mean > good * mark.y.mean && cheap * (other.left - mark.left) <= slack);
    return this.marks.filter((mark) => !isBeaten(mark)).sort((a, b) => a.left - b.left);
  }

  front() {
    const path = this.frontMarks().map((mark) => `${mark.left.toFixed(1)},${mark.top.toFixed(1)}`);
    // A line of no length still draws its round ends, so that a front of one mark is seen.
    return svg("path", { class: "front", d: path.length ? `M${path.join("L")}${path.length === 1 ? "h0" : ""}` : "" });
  }

  curves() {
    const front = new Set(this.frontMarks());
    const groups = [];
    for (const policy of policies.values()) {
      const marks = this.marks.filter((mark) => mark.policy === policy).sort((a, b) => a.x - b.x);
      if (!marks.length) continue;
      const curve = marks.map((mark) => `${mark.left.toFixed(1)},${mark.top.toFixed(1)}`).join("L");
      const group = svg(
        "g",
        { class: policy.strong ? "series strong" : "series", "data-policy": policy.name, "--color": policy.color },
        svg("path", { class: "curve", d: `M${curve}` }),
        marks.map((mark) => this.whisker(mark)),
        marks.map((mark) => this.mark(mark, front.has(mark))),
      );
      groups.push(group);
    }
    // Emphasized ones on top, labels last.
    groups.sort((a, b) => a.classList.contains("strong") - b.classList.contains("strong"));
    this.label(groups);
    return groups;
  }

  whisker({ left, y }) {
    const [low, high] = [y.low, y.high].map((value) =>
      Math.min(this.bottom, Math.max(MARGIN.top, this.yScale(value))).toFixed(1),
    );
    return svg("path", {
      class: "whisker",
      d: `M${left - 3},${low}H${left + 3}M${left},${low}V${high}M${left - 3},${high}H${left + 3}`,
    });
  }

  mark(mark, onFront) {
    const rows = markRows(mark, this.cost, this.metric, onFront);
    mark.rows = rows;
    mark.title = pointTitle(mark.point);
    mark.node = svg(
      "g",
      {
        class: "mark",
        transform: `translate(${mark.left.toFixed(1)},${mark.top.toFixed(1)})`,
        tabindex: "-1",
        role: "img",
        "aria-label": `${mark.title}: ${rows.map((row) => row.join(" ")).join("; ")}`,
        onfocus: () => this.select(mark),
        onblur: () => this.select(null),
        onkeydown: (event) => this.walk(event, mark),
      },
      svg("circle", { class: "halo", r: 10 }),
      svg("path", { d: markerPath(mark.policy) }),
    );
    if (mark === this.marks[0]) mark.node.setAttribute("tabindex", "0");
    return mark.node;
  }

  /** The names of the emphasized curves; those of the others are shown while they are pointed at. */
  label(groups) {
    const marksOf = (group) =>
      this.marks.filter((mark) => mark.policy.name === group.dataset.policy).sort((a, b) => a.x - b.x);
    const frame = { left: MARGIN.left, right: this.right + MARGIN.right, top: MARGIN.top - 8, bottom: this.bottom };
    const write = (group, { x, y }, name) =>
      group.append(svg("text", { class: name, x, y, "text-anchor": "end" }, policies.get(group.dataset.policy).title));
    const [strong, others] = [true, false].map((isStrong) =>
      groups.filter((group) => group.classList.contains("strong") === isStrong),
    );
    const curve = (group) => [policies.get(group.dataset.policy).title, marksOf(group)];
    placeLabels(strong.map(curve), this.marks, frame, this.obstacles).forEach((place, index) =>
      write(strong[index], place, "label series-label"),
    );
    for (const group of others)
      write(group, placeLabels([curve(group)], [], frame, [])[0], "label series-label on-demand");
  }

  select(mark) {
    if (mark === this.current) return;
    this.current?.node.classList.remove("current");
    this.current = mark;
    if (!mark) {
      hideTooltip();
      highlight(null);
      return;
    }
    highlight(mark.policy.name);
    mark.node.classList.add("current");
    showTooltip(mark.node.querySelector("path"), mark.title, mark.rows);
  }

  listenToPointer() {
    const find = (event) => {
      const box = this.root.getBoundingClientRect();
      const distance = (mark) => Math.hypot(mark.left - event.clientX + box.left, mark.top - event.clientY + box.top);
      const nearest = this.marks.reduce((best, mark) => (!best || distance(mark) < distance(best) ? mark : best), null);
      this.select(nearest && distance(nearest) < REACH ? nearest : null);
    };
    this.current = null;
    this.root.addEventListener("pointermove", find);
    this.root.addEventListener("pointerdown", find);
    // A finger that is lifted leaves, too; what it pointed at stays.
    this.root.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.select(null);
    });
  }

  walk(event, mark) {
    const own = this.marks.filter((other) => other.policy === mark.policy).sort((a, b) => a.x - b.x);
    const names = policyNames.filter((name) => this.marks.some((other) => other.policy.name === name));
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    let next = own[own.indexOf(mark) + move[1]];
    if (move[0]) {
      const name = names[(names.indexOf(mark.policy.name) + move[0] + names.length) % names.length];
      next = this.marks
        .filter((other) => other.policy.name === name)
        .reduce((a, b) => (Math.abs(a.x - mark.x) <= Math.abs(b.x - mark.x) ? a : b));
    }
    if (!next) return;
    mark.node.setAttribute("tabindex", "-1");
    next.node.setAttribute("tabindex", "0");
    next.node.focus();
  }
}

/** Bring a policy's curves forward in all charts; null ends it. */
function highlight(name) {
  for (const { root } of panels) {
    if (!root) continue;
    if (name === null) delete root.dataset.active;
    else root.dataset.active = name;
    for (const series of root.querySelectorAll(".series"))
      series.classList.toggle("active", series.dataset.policy === name);
  }
}
