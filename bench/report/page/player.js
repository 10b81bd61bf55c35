// Several videos on one clock: they start together, what drifts is pulled back, and at the end all begin again.

const DRIFT = 0.012; // seconds; beyond it a video runs faster or slower for a while
const JUMP = 0.15; // seconds; beyond it a video is set to the clock's time
const PULL = 3; // how much faster, per second of drift
const SEEK_PATIENCE = 600; // milliseconds until a video that does not answer is no longer waited for

class Player {
  /** `changed` is called when playing starts or ends and whenever time has passed. The first video is the clock. */
  constructor(changed) {
    this.changed = changed;
    this.videos = [];
    this.wanted = false;
    this.rate = 1;
    this.turn = 0; // of what waits for videos, only the latest goes on
    const tick = () => {
      this.keepInStep();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  async load(videos) {
    const turn = ++this.turn;
    this.videos = videos;
    await Promise.all(videos.map((video) => once(video, "loadeddata", video.readyState >= 2)));
    if (turn !== this.turn) return;
    this.videos = videos.filter((video) => !video.error);
    if (this.wanted) this.start(0);
    else this.seek(0);
  }

  get duration() {
    const durations = this.videos.map((video) => video.duration).filter(Number.isFinite);
    return durations.length ? Math.min(...durations) : 0;
  }

  get time() {
    return this.videos.length ? this.videos[0].currentTime : 0;
  }

  play() {
    this.wanted = true;
    this.start(this.time >= this.duration - 0.001 ? 0 : this.time);
  }

  pause() {
    this.wanted = false;
    this.turn++;
    for (const video of this.videos) video.pause();
    this.align(this.time);
    this.changed();
  }

  seek(time) {
    this.wanted = false;
    this.turn++;
    for (const video of this.videos) video.pause();
    this.align(time);
    this.changed();
  }

  setRate(rate) {
    this.rate = rate;
    for (const video of this.videos) video.playbackRate = rate;
  }

  /** Go to a time, and play once every video is there. */
  async start(time) {
    const turn = ++this.turn;
    this.isStarting = true;
    for (const video of this.videos) {
      video.pause();
      video.playbackRate = this.rate;
    }
    await this.align(time);
    if (turn !== this.turn) return;
    try {
      await Promise.all(this.videos.map((video) => video.play()));
    } catch (error) {
      // Interrupted ones are begun again; else the browser does not let it play without a click, or cannot.
      if (turn === this.turn && error.name !== "AbortError") this.wanted = false;
    }
    if (turn === this.turn) this.isStarting = false;
    this.changed();
  }

  async align(time) {
    await Promise.all(
      this.videos.map((video) => {
        if (Math.abs(video.currentTime - time) < 1e-4) return null;
        video.currentTime = time;
        return once(video, "seeked", false);
      }),
    );
  }

  keepInStep() {
    if (!this.wanted || this.isStarting || !this.videos.length) return;
    const time = this.time;
    if (time >= this.duration - 0.005 || this.videos[0].ended) {
      this.start(0);
      return;
    }
    // The browser may pause videos by itself, such as in a tab in the background.
    if (this.videos.some((video) => video.paused && !video.ended)) {
      this.start(time);
      return;
    }
    for (const video of this.videos.slice(1)) {
      const drift = video.currentTime - time;
      if (Math.abs(drift) > JUMP) video.currentTime = time;
      const rate = Math.abs(drift) > DRIFT ? this.rate * (1 - Math.max(-0.4, Math.min(0.4, PULL * drift))) : this.rate;
      if (Math.abs(video.playbackRate - rate) > 0.02) video.playbackRate = rate;
    }
    this.changed();
  }
}

/** An event of a video, or the end of patience with it. */
function once(video, name, isThere) {
  if (isThere) return null;
  return new Promise((resolve) => {
    video.addEventListener(name, resolve, { once: true });
    setTimeout(resolve, SEEK_PATIENCE);
  });
}
