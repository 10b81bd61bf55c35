// Videos of one scene on one clock. Playing, the first one leads and the others are pulled to it; where differences
// are shown, all go from frame to frame together, so that each is compared with the same frame of the first.

const DRIFT = 0.02; // seconds; beyond it a video runs faster or slower for a while
const JUMP = 0.2; // seconds; beyond it a video is set to the leader's time
const PATIENCE = 800; // milliseconds until a video that does not answer is no longer waited for
const GAIN = 4; // of differences, as they are painted

let playing = false;
let rate = 1;
let turn = 0; // of what waits for videos, only the latest goes on
let stepping = false;

const find = (selector) => element.querySelector(selector);
const videos = () => [...element.querySelectorAll(".st-compare video")];
const leader = () => videos()[0];
const fps = () => Number(find(".st-compare")?.dataset.fps || 8);
const frames = () => Number(find(".st-compare")?.dataset.frames || 1);
const frame = () => Math.min(frames() - 1, Math.floor((leader()?.currentTime || 0) * fps() + 0.01));
const showsDifference = () => Boolean(find("[data-do=difference]")?.checked);

const seek = (index) =>
  Promise.all(
    videos().map((video) => {
      video.pause();
      const time = (index + 0.5) / fps();
      if (Math.abs(video.currentTime - time) < 1e-3 && video.readyState >= 2) return null;
      return new Promise((resolve) => {
        video.addEventListener("seeked", resolve, { once: true });
        setTimeout(resolve, PATIENCE);
        video.currentTime = time;
      });
    }),
  );

function paint() {
  const lead = leader();
  for (const canvas of element.querySelectorAll(".st-compare canvas")) {
    const video = canvas.parentElement.querySelector("video");
    canvas.hidden = !showsDifference() || video === lead;
    if (canvas.hidden || video.readyState < 2 || lead.readyState < 2) continue;
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    context.globalCompositeOperation = "difference";
    context.drawImage(lead, 0, 0);
    context.globalCompositeOperation = "lighter"; // doubles itself
    for (let gain = 1; gain < GAIN; gain *= 2) context.drawImage(canvas, 0, 0);
  }
}

function report() {
  if (!leader()) return;
  const index = frame();
  const scrub = find("[data-do=frame]");
  if (scrub && Number(scrub.value) !== index) scrub.value = index;
  const text = find(".st-frame");
  if (text) text.textContent = `frame ${index + 1} of ${frames()}`;
  const button = find("[data-do=play]");
  if (button) button.textContent = playing ? "Pause" : "Play";
  for (const cursor of element.querySelectorAll(".st-cursor")) {
    const { left, right } = cursor.ownerSVGElement.dataset;
    const x = Number(left) + ((Number(right) - Number(left)) * index) / Math.max(1, frames() - 1);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
  }
}

async function start() {
  playing = true;
  const mine = ++turn;
  await seek(frame() >= frames() - 1 ? 0 : frame());
  if (mine !== turn) return;
  if (showsDifference()) {
    stepping = true;
    while (playing && mine === turn && showsDifference() && element.isConnected) {
      const due = performance.now() + 1000 / (fps() * rate);
      await seek((frame() + 1) % frames());
      paint();
      report();
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    }
    stepping = false;
    if (playing && mine === turn) start();
    return;
  }
  for (const video of videos()) video.playbackRate = rate;
  await Promise.allSettled(videos().map((video) => video.play()));
}

async function stop(index = frame()) {
  playing = false;
  turn++;
  await seek(index);
  paint();
  report();
}

function keepInStep() {
  const all = videos();
  if (playing && !stepping && all.length) {
    const time = all[0].currentTime;
    if (all.every((video) => video.paused)) start(); // new videos, or a tab that was in the background
    for (const video of all.slice(1)) {
      const drift = video.currentTime - time;
      if (Math.abs(drift) > JUMP) video.currentTime = time;
      const wanted = Math.abs(drift) > DRIFT ? rate * (1 - Math.max(-0.4, Math.min(0.4, 3 * drift))) : rate;
      if (Math.abs(video.playbackRate - wanted) > 0.02) video.playbackRate = wanted;
    }
    report();
  }
}

function tick() {
  if (!element.isConnected) return;
  keepInStep();
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);

element.addEventListener("ended", (event) => event.target === leader() && playing && start(), true);
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) trigger("act", { ...button.dataset });
  if (event.target.closest("[data-do=play]")) playing ? stop() : start();
});
element.addEventListener("input", (event) => {
  const what = event.target.dataset.do;
  if (what === "frame") stop(Number(event.target.value));
  if (what === "rate") {
    rate = Number(event.target.value);
    if (playing) start();
  }
  if (what === "difference") {
    paint();
    if (playing) start();
    else stop();
  }
});
