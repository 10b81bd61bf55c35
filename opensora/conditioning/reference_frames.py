"""The three kinds of files that references are: still images, animated images and videos, read frame by frame."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from opensora.datasets.video_io import ffmpeg_url
from opensora.errors import one_line

try:
    import av
except ImportError:  # images need no decoder
    av = None

# Pillow's and FFmpeg's own names. Only formats that store pixels: both would also read documents, playlists or text.
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_ANIMATED_FORMATS = frozenset({"PNG", "WEBP", "GIF"})
_VIDEO_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,ivf"


class NotReadable(Exception):
    """A reference cannot be read; the message is the end of a sentence that starts with the file's name."""


class StillImage:
    """A still image, decoded when it is asked for."""

    num_frames = 1

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size

    def check(self) -> None:
        """Decode the image and note the size in which it is shown.

        Raises:
            NotReadable: it cannot be decoded, for example because it is cut off.
        """
        self.width, self.height = self.image().size

    def image(self) -> Image.Image:
        """Return the image in RGB, turned as its metadata asks.

        Raises:
            NotReadable: it cannot be decoded.
        """
        with _decoding():
            self._image.load()
            image = self._image
            with contextlib.suppress(Exception):  # whatever is wrong with the metadata, the pixels are fine
                image = ImageOps.exif_transpose(image)
            return _rgb(image)

    def close(self) -> None:
        """Close the file."""
        self._image.close()


class AnimatedImage:
    """A gif, webp or png of several frames."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size
        self._first = int(bool(image.info.get("default_image")))  # a png's picture for viewers that play no animations
        self.num_frames: int = image.n_frames - self._first

    def check(self) -> None:
        """Refuse, with NotReadable, a file whose first frame cannot be decoded."""
        next(self.frames())

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames (H, W, 3) uint8.

        Raises:
            NotReadable: a frame cannot be decoded.
        """
        for i in range(self._first, self._first + self.num_frames):
            with _decoding():
                self._image.seek(i)
                frame = np.asarray(_rgb(self._image))
            yield frame

    def close(self) -> None:
        """Close the file."""
        self._image.close()


class VideoFile:
    """A video that FFmpeg can read."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self.width, self.height = stream.width, stream.height
        self.num_frames: int | None = stream.frames or None

    def check(self) -> None:
        """Refuse, with NotReadable, a file without frames, or whose first one cannot be decoded."""
        if next(self.frames(), None) is None:
            raise NotReadable("holds no frames")

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames (H, W, 3) uint8.

        Raises:
            NotReadable: a frame cannot be decoded.
        """
        count = 0
        try:
            for frame in self._decoded():
                yield frame
                count += 1
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise NotReadable(f"is damaged after frame {count} ({reason})") from error

    def _decoded(self) -> Iterator[np.ndarray]:
        for frame in self._container.decode(self._stream):
            yield frame.to_ndarray(format="rgb24")

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def open_reference(path: Path) -> StillImage | AnimatedImage | VideoFile:
    """Open a file and read its header.

    Raises:
        NotReadable: it is neither an image nor a video, or its header is damaged.
    """
    image = _open_image(path)
    if image is None:
        return _open_video(path)
    try:
        with _decoding():  # counting the frames reads more of the file
            is_animated = image.format in _ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1
            return AnimatedImage(image) if is_animated else StillImage(image)
    except NotReadable:
        image.close()
        raise


def _open_image(path: Path) -> Image.Image | None:
    """Return the image that Pillow finds in the file, or None."""
    with _decoding():  # without Pillow's warning about large images: the caller has a limit
        try:
            return Image.open(path, formats=_IMAGE_FORMATS)
        except UnidentifiedImageError:
            return None
        except Image.DecompressionBombError as error:
            raise NotReadable("has more pixels than can be decoded safely; make it smaller") from error


def _open_video(path: Path) -> VideoFile:
    if av is None:
        raise NotReadable("is not an image, and videos cannot be read without PyAV; install it with pip install av")
    try:
        # Formats that lead to other files, such as playlists, are off.
        container = av.open(ffmpeg_url(path), options={"format_whitelist": _VIDEO_FORMATS})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise NotReadable(_why_not_a_video(path)) from error
    attached = av.stream.Disposition.attached_pic  # the cover of a song
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not streams:
        has_audio = bool(container.streams.audio)
        container.close()
        raise NotReadable("holds only sound; give an image or a video" if has_audio else "holds no video")
    if streams[0].codec_context is None:
        container.close()
        raise NotReadable("is a video with a codec that cannot be decoded; convert it to H.264")
    return VideoFile(container, streams[0])


def _why_not_a_video(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp":
        return "is a video that is cut off or damaged (its index cannot be read); copy or download it again"
    return (
        "is neither an image (png, jpg, webp, bmp, gif, tiff) nor a video (mp4, mov, mkv, webm, avi) that can be read"
    )


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever a decoder raises into NotReadable, and keep its warnings off the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except NotReadable:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged data
            raise NotReadable(f"is damaged or cut off ({one_line(error)})") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Convert the image to 8-bit RGB; alpha is dropped."""
    if image.mode.startswith("I"):  # 16 bits per pixel, which convert would clip instead of scale
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 bits per channel")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # avoids a warning; the colors are the same
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("its pixels have more than 16 bits; save it with 8 bits per channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
