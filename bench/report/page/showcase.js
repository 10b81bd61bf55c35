// Videos of a prompt side by side: references first, each with its numbers and its schedule.

const PIXELATED = 256; // pixels; smaller videos are shown without smoothing
const SHORT = 1.5; // seconds; shorter videos begin at half their speed
const EXACT_SUFFIX = "_exact";

class Showcase {
  constructor(host) {
    this.scenes = bench.showcase;
    this.budgets = [...new Set(this.scenes.flatMap((scene) => scene.videos.map((video) => video.budget)))]
      .filter((budget) => budget !== null)
      .sort((a, b) => a - b);
    this.budget = this.budgets[Math.floor(this.budgets.length / 2)] ?? null;
    this.at = 0;
    this.showsDifference = false;
    this.player = new Player(() => this.follow());
    this.stage = html("div", {
      class: Math.max(bench.setting.width, bench.setting.height) <= PIXELATED ? "stage tiny" : "stage",
    });
    host.append(this.promptBar(), this.transport(), this.stage);
    this.show();
    this.playWhenSeen();
  }

  promptBar() {
    const options = this.scenes.map((scene, index) => [
      String(index),
      `${index + 1} of ${this.scenes.length}: ${scene.prompt}`,
    ]);
    const { field, select } = selectField("Prompt", options, "0", (value) => this.go(Number(value)));
    this.promptSelect = select;
    const step = (by) => this.go((this.at + by + this.scenes.length) % this.scenes.length);
    return html(
      "div",
      { class: "prompt-bar" },
      html(
        "button",
        { type: "button", class: "button", "aria-label": "Previous prompt", onclick: () => step(-1) },
        "‹",
      ),
      field,
      html("button", { type: "button", class: "button", "aria-label": "Next prompt", onclick: () => step(1) }, "›"),
    );
  }

  transport() {
    this.button = html("button", { type: "button", class: "button play", onclick: () => this.toggle() }, "Play");
    const last = bench.setting.num_frames - 1;
    this.scrubber = html("input", {
      type: "range",
      min: 0,
      max: last,
      step: 1,
      value: 0,
      "aria-label": "Frame",
      oninput: () => this.scrub(Number(this.scrubber.value)),
    });
    this.output = html("output", {}, "");
    const { num_frames: count, fps } = bench.setting;
    const initial = fps && count / fps >= SHORT ? "1" : "0.5";
    const speed = html(
      "select",
      { onchange: () => this.player.setRate(Number(speed.value)) },
      [
        ["0.25", "¼ ×"],
        ["0.5", "½ ×"],
        ["1", "1 ×"],
      ].map(([value, text]) => html("option", { value, selected: value === initial }, text)),
    );
    speed.setAttribute("aria-label", "Speed");
    speed.title = "Speed";
    this.player.setRate(Number(initial));
    const bar = html(
      "div",
      { class: "transport", role: "group", "aria-label": "All videos" },
      this.button,
      html("div", { class: "scrub" }, this.scrubber, this.output),
      speed,
    );
    if (this.budgets.length > 1) {
      bar.append(
        html(
          "div",
          { class: "inline" },
          html("span", {}, "Budget"),
          segments(
            "Budget",
            this.budgets.map((budget) => [budget, String(budget)]),
            this.budget,
            (budget) => {
              this.budget = budget;
              this.show();
            },
            true,
          ),
        ),
      );
    }
    const view = segments(
      "View",
      [
        ["video", "Video"],
        ["difference", `Difference × ${AMPLIFICATION}`],
      ],
      "video",
      (value) => this.setView(value === "difference"),
      true,
    );
    view.title = "Absolute difference to the uncached video, amplified";
    if (canShowDifferences) bar.append(view);
    return bar;
  }

  go(index) {
    this.at = index;
    this.promptSelect.value = String(index);
    this.show();
  }

  show() {
    hideTooltip();
    for (const video of this.stage.querySelectorAll("video")) video.removeAttribute("src");
    const scene = this.scenes[this.at];
    const videos = scene.videos.filter((video) => video.budget === null || video.budget === this.budget);
    const isReference = (video) => !policies.has(video.policy);
    const order = [
      ...videos.filter(isReference),
      ...policyNames.flatMap((name) => videos.filter((video) => video.policy === name)),
    ];
    const uncached = order.find((video) => video.policy === "uncached");
    this.differences = null;
    this.uncachedSource = uncached && videoFiles[uncached.file];
    this.repaint = [];
    this.stage.replaceChildren(...order.map((video) => this.card(video)));
    this.player.load([...this.stage.querySelectorAll("video")]);
    this.setView(this.showsDifference);
  }

  card(video) {
    const policy = policies.get(video.policy);
    const title = policy ? policy.title : referenceTitle(video.policy);
    const screen = html("div", { class: "screen" });
    screen.style.aspectRatio = `${bench.setting.width} / ${bench.setting.height}`;
    const source = videoFiles[video.file];
    if (source) screen.append(...this.pictures(video, title, source));
    else screen.append(html("p", { class: "missing" }, `There is no file ${video.file}`));
    return html(
      "article",
      {
        class: policy?.ours ? "card ours" : "card",
        "--color": policy?.color ?? "var(--ink)",
        "data-policy": video.policy,
      },
      html("h3", {}, policy ? html("i", { class: "swatch" }) : null, html("span", {}, title)),
      screen,
      buildStrip(video, title, policy?.color ?? "var(--ink)"),
      cardValues(video),
    );
  }

  pictures(video, title, source) {
    const element = html("video", {
      playsinline: true,
      preload: "auto",
      "aria-label": `${title}: ${this.scenes[this.at].prompt}`,
      tabindex: "-1",
    });
    element.muted = true;
    element.disableRemotePlayback = true;
    element.src = source;
    if (video.policy === "uncached" || !canShowDifferences) return [element];
    const canvas = html("canvas", { hidden: true, "aria-hidden": "true" });
    this.repaint.push(followFrames(element, canvas, () => (this.showsDifference ? this.differences : null)));
    return [element, canvas];
  }

  async setView(difference) {
    this.showsDifference = difference;
    if (difference && this.uncachedSource) {
      this.differences ??= new Differences(this.uncachedSource);
      const wanted = this.differences;
      await wanted.ready;
      if (wanted !== this.differences || !this.showsDifference) return;
      for (const paint of this.repaint) paint();
    }
    for (const canvas of this.stage.querySelectorAll("canvas")) canvas.hidden = !(difference && this.uncachedSource);
  }

  toggle() {
    this.isChosen = true;
    if (this.player.wanted) this.player.pause();
    else this.player.play();
  }

  scrub(frame) {
    this.isChosen = true;
    // The middle of the frame, so that rounding cannot show its neighbor.
    this.player.seek(((frame + 0.5) / bench.setting.num_frames) * this.player.duration);
  }

  follow() {
    const [video] = this.player.videos;
    const frame = video?.duration ? frameAt(this.player.time, video) : 0;
    this.button.textContent = this.player.wanted ? "Pause" : "Play";
    if (document.activeElement !== this.scrubber || this.player.wanted) this.scrubber.value = frame;
    this.output.textContent = `frame ${frame + 1} of ${bench.setting.num_frames}`;
    this.scrubber.setAttribute("aria-valuetext", this.output.textContent);
  }

  /** Play while the videos are on screen, until the reader decides; never for those who prefer less motion. */
  playWhenSeen() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    new IntersectionObserver((entries) => {
      const entry = entries.at(-1); // earlier ones are of the past
      if (this.isChosen && !this.player.wanted) return;
      if (entry.isIntersecting === this.player.wanted) return;
      if (entry.isIntersecting) this.player.play();
      else this.player.pause();
    }).observe(this.stage);
  }
}

/** The first metric to both references, and what it took. */
function cardValues(video) {
  const [first] = metrics;
  const shown = metrics.filter(
    (metric) => [first.key, first.key + EXACT_SUFFIX].includes(metric.key) && metric.key in video.values,
  );
  // Without the unit, which the charts name: cards are narrow.
  const lines = shown.map((metric) =>
    html(
      "span",
      { title: metric.unit || null },
      metric.title,
      html("b", {}, valueText(metric, video.values[metric.key])),
    ),
  );
  const { computed_steps: steps, denoise_seconds: seconds } = video.values;
  const took = [
    steps === undefined ? null : `${fixed(steps, Number.isInteger(steps) ? 0 : 1)} steps`,
    seconds === undefined ? null : `${significant(seconds)} s`,
  ];
  return html("p", { class: "values" }, lines, html("span", {}, took.filter(Boolean).join(", ")));
}
