// |video - uncached|, amplified, drawn from the frames that are on screen.
// Blending does the arithmetic, so no pixel has to be read, which browsers may forbid in a local file.

const DOUBLINGS = 3;
const AMPLIFICATION = 2 ** DOUBLINGS;
const MAX_SIDE = 256; // pixels; kept frames of larger videos are scaled down
const FRAME_PATIENCE = 3000; // milliseconds
const canShowDifferences = "requestVideoFrameCallback" in HTMLVideoElement.prototype;

function frameAt(time, video) {
  const count = bench.setting.num_frames;
  return Math.max(0, Math.min(count - 1, Math.floor((time / video.duration) * count + 0.01)));
}

class Differences {
  /** All frames of the reference are kept, so that each is compared with the same frame, however videos drift. */
  constructor(source) {
    this.frames = [];
    this.ready = this.keep(source);
  }

  async keep(source) {
    const video = html("video", { muted: true, playsinline: true, preload: "auto", src: source });
    video.muted = true;
    await once(video, "loadeddata", video.readyState >= 2);
    const scale = Math.min(1, MAX_SIDE / Math.max(video.videoWidth, video.videoHeight, 1));
    const count = bench.setting.num_frames;
    for (let index = 0; index < count; index++) {
      await showFrame(video, index);
      const frame = html("canvas", {
        width: Math.round(video.videoWidth * scale),
        height: Math.round(video.videoHeight * scale),
      });
      frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
      this.frames.push(frame);
    }
  }

  paint(canvas, video, index) {
    const frame = this.frames[index];
    if (!frame || video.readyState < 2) return;
    if (canvas.width !== frame.width || canvas.height !== frame.height)
      Object.assign(canvas, { width: frame.width, height: frame.height });
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.drawImage(frame, 0, 0);
    context.globalCompositeOperation = "difference";
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "lighter";
    for (let doubling = 0; doubling < DOUBLINGS; doubling++) context.drawImage(canvas, 0, 0);
  }
}

/** Go to a frame and wait until it is the one that is drawn, which may be a while after the seek has ended. */
function showFrame(video, index) {
  return new Promise((resolve) => {
    const check = (_, frame) => {
      if (frameAt(frame.mediaTime, video) === index) resolve();
      else video.requestVideoFrameCallback(check);
    };
    video.requestVideoFrameCallback(check);
    setTimeout(resolve, FRAME_PATIENCE);
    video.currentTime = ((index + 0.5) / bench.setting.num_frames) * video.duration;
  });
}

/** Keep a card's canvas up to date with its video while `source()` gives differences; returns what draws it anew. */
function followFrames(video, canvas, source) {
  let shown = 0; // time of the frame on screen, which the clock may be ahead of
  const paint = () => source()?.paint(canvas, video, frameAt(shown, video));
  const follow = (_, frame) => {
    if (!video.isConnected) return;
    shown = frame.mediaTime;
    paint();
    video.requestVideoFrameCallback(follow);
  };
  video.requestVideoFrameCallback(follow);
  return paint;
}
