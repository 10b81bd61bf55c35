"""Videos and images on disk: uint8 frames (T, H, W, 3) to mp4, png or npz, and back.

H.264 is lossy: measure quality on the frames, or on the npz, which has them exactly.
"""

import os
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from adacache.atomic import atomic_path
from adacache.trace_plot import spread

try:
    import av
except ImportError:  # images need no encoder; videos are refused before they are sampled
    av = None

if TYPE_CHECKING:
    import torch

VIDEO_SUFFIX = ".mp4"
IMAGE_SUFFIX = ".png"
FRAMES_SUFFIX = ".frames.npz"

_MAX_CRF = 51  # of x264 with 8 bits
_MAX_RATE_DENOMINATOR = 1001  # mp4 needs small numbers
_BT709 = 1  # matrix, primaries and transfer have the same number in ITU-T H.273
_LIMITED_RANGE = 1
# The same frames give the same file in every process. By default, x264's output depends on the number of cores and,
# through its fast routines for macroblock trees, on what was in memory before (MALLOC_PERTURB_ shows it).
# cpu-independent takes the plain routines, at no measurable cost; frame threads make smaller files than the slice
# threads that PyAV sets.
_X264_OPTIONS = {"preset": "medium", "threads": "4", "thread_type": "frame", "x264-params": "cpu-independent=1"}
# Frame rate that read_video returns for an image: the value that means "image" to the model.
_IMAGE_FPS = 120.0


def to_uint8(video: "torch.Tensor") -> np.ndarray:
    """Convert a decoded video (3, T, H, W) to frames (T, H, W, 3) uint8: [-1, 1] is clamped and rounded to 0..255.

    Raises:
        ValueError: the video has another shape, an integer dtype, or NaN, which means that sampling has diverged.

    Source: opensora/datasets/utils.py (Open-Sora v1.2), save_sample.
    """
    if video.ndim != 4 or video.shape[0] != 3 or not video.is_floating_point():
        raise ValueError(
            f"expected a float video of shape (3, T, H, W) in [-1, 1], got {video.dtype} {tuple(video.shape)}"
        )
    # One copy, then in-place operations: 51 frames at 720p are half a gigabyte in float32.
    pixels = video.detach().float().clamp(-1, 1)
    if pixels.isnan().any():
        raise ValueError("the video contains NaN, so the sampling has diverged: try dtype float32")
    pixels = pixels.add_(1).div_(2).mul_(255).add_(0.5)
    # Permuted on the device: the host would take longer, while the device waits for the next piece.
    return pixels.byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()


def write_video(
    path: str | os.PathLike[str], frames: "np.ndarray | torch.Tensor", fps: float | Fraction, crf: int = 18
) -> Path:
    """Write uint8 frames (T, H, W, 3) as an H.264 mp4, or as a png if T is 1, and return the path written.

    The path gets the ending that fits the frames (an .mp4 or .png it has is replaced), and missing folders
    are made. The file appears only when it is complete, in place of an older one; the same frames give the same
    bytes. `crf` is 0 (best) to 51 (smallest); at 18 a difference is hardly visible. Frames of any size can be
    written, but the colors of an mp4 come in blocks of 2 x 2 pixels: an odd side is extended by its last row or
    column, so that the file is one pixel wider or higher than the frames.

    Raises:
        ValueError: frames, fps or crf cannot be used.
        OSError: the disk refuses.
    """
    array = checked_frames(frames)
    rate = as_rate(fps)
    if not isinstance(crf, int) or isinstance(crf, bool) or not 0 <= crf <= _MAX_CRF:
        raise ValueError(f"crf must be a whole number from 0 (best) to {_MAX_CRF} (smallest), got {crf!r}")
    target = _with_suffix(Path(path), IMAGE_SUFFIX if len(array) == 1 else VIDEO_SUFFIX)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as unfinished:
        if len(array) == 1:
            _write_png(unfinished, array[0])
        else:
            _write_mp4(unfinished, array, rate, crf)
    return target


def read_video(path: str | os.PathLike[str], count: int | None = None) -> tuple[np.ndarray, float]:
    """Read a video's frames (T, H, W, 3) uint8 and frames per second; a png has one frame and 120 (`_IMAGE_FPS`).

    With `count`, up to that many evenly spaced frames are read, including the first and the last: a long video then
    needs no more memory than a short one, if its file says how many frames it has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as a video.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no video file at '{path}'")
    return _read_png(path) if path.suffix.lower() == IMAGE_SUFFIX else _read_av(path, count)


def write_frames(path_without_suffix: str | os.PathLike[str], frames: np.ndarray) -> Path:
    """Write frames (T, H, W, 3) uint8 without loss to `STEM.frames.npz`, as the array "frames"; return its path.

    The file appears only when it is complete, in place of an older one. The same frames give the same bytes: NumPy
    dates all entries of its archives to 1980.

    Raises:
        ValueError: frames have another shape or dtype.
        OSError: the disk refuses.
    """
    array = checked_frames(frames)
    path = Path(path_without_suffix)
    target = path.with_name(path.name + FRAMES_SUFFIX)  # a name made from a prompt has dots
    target.parent.mkdir(parents=True, exist_ok=True)
    # An open file, as NumPy would append its own ending to a path.
    with atomic_path(target) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, frames=array)
    return target


def read_frames(path: str | os.PathLike[str]) -> np.ndarray:
    """Read frames (T, H, W, 3) uint8 that `write_frames` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold such frames.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no frames at '{path}'")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["frames"]
    except KeyError as error:
        raise ValueError(f"'{path.name}' holds no array 'frames'") from error
    except (ValueError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"'{path.name}' is damaged, or not an npz file") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"'{path.name}' does not hold (T, H, W, 3) in uint8 but {frames.shape} in {frames.dtype}")
    return frames


def ffmpeg_url(path: Path) -> str:
    """Return a path in a form that FFmpeg takes literally; in "run:1/a.mp4" it would take "run" for a protocol."""
    return f"file:{path}"


def checked_frames(frames: "np.ndarray | torch.Tensor") -> np.ndarray:
    """Return frames (T, H, W, 3) uint8 as an array.

    Raises:
        ValueError: `frames` have another shape or dtype, or are empty.
    """
    if not hasattr(frames, "detach"):
        frames = np.asarray(frames)
    dtype, shape = str(frames.dtype).removeprefix("torch."), tuple(frames.shape)
    if dtype != "uint8" or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise ValueError(
            f"expected uint8 frames of shape (T, H, W, 3) with T, H and W of at least 1, got {dtype} {shape}: convert "
            "a float video with to_uint8 first"
        )
    return frames if isinstance(frames, np.ndarray) else frames.detach().cpu().numpy()


def as_rate(fps: float | Fraction) -> Fraction:
    """Return frames per second as a fraction of small numbers: exact for 24, 30000/1001 and the like.

    Raises:
        ValueError: `fps` is not a positive number, or one that rounds to none.
    """
    try:
        rate = Fraction(fps).limit_denominator(_MAX_RATE_DENOMINATOR)
    except (TypeError, ValueError, OverflowError):  # not a number, NaN, infinity
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"fps must be a positive number of frames per second, 0.001 or more, got {fps!r}")
    return rate


def _with_suffix(path: Path, suffix: str) -> Path:
    """Return the path with the ending; only .mp4 and .png are replaced, as a name made from a prompt has dots."""
    if path.suffix.lower() in (VIDEO_SUFFIX, IMAGE_SUFFIX):
        return path.with_suffix(suffix)
    return path.with_name(path.name + suffix)


def _write_png(path: Path, frame: np.ndarray) -> None:
    Image.fromarray(frame).save(path, format="PNG")


def _write_mp4(path: Path, frames: np.ndarray, rate: Fraction, crf: int) -> None:
    height, width = frames.shape[1:3]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    options = _X264_OPTIONS | {"crf": str(crf)}
    with av.open(ffmpeg_url(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        # Players guess the color matrix of an untagged file, and wrong guesses shift the colors.
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE
        for frame in frames:
            rgb = av.VideoFrame.from_ndarray(np.pad(frame, padding, mode="edge"), format="rgb24")
            container.mux(stream.encode(rgb.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())  # flush


def _read_png(path: Path) -> tuple[np.ndarray, float]:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))[None], _IMAGE_FPS
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"cannot read '{path}' as an image: {error}") from error


def _read_av(path: Path, count: int | None) -> tuple[np.ndarray, float]:
    if av is None:
        raise ValueError(f"cannot read '{path}': videos need the package av; pip install av")
    try:
        with av.open(ffmpeg_url(path)) as container:
            if not container.streams.video:
                raise ValueError(f"'{path}' holds no video stream")
            stream = container.streams.video[0]
            total = stream.frames  # 0 in files that do not say
            kept = set(spread(np.arange(total), count).tolist()) if count and total else None
            frames = [
                frame.to_ndarray(format="rgb24")
                for number, frame in enumerate(container.decode(stream))
                if kept is None or number in kept
            ]
            rate = stream.average_rate
    except av.error.FFmpegError as error:
        raise ValueError(f"cannot read '{path}' as a video: {error.strerror}") from error
    if not frames or not rate:
        raise ValueError(f"'{path}' holds no video frames, or does not state their rate")
    return np.stack(frames) if count is None else spread(np.stack(frames), count), float(rate)
