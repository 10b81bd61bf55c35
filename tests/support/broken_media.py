"""Images and videos that are damaged, odd, or not what their names say."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from opensora.datasets.video_io import write_video


def image(path: Path, size: tuple[int, int] = (16, 16), mode: str = "RGB", **options: object) -> Path:
    """An image of one color; the file's kind follows from its name."""
    from PIL import Image

    Image.new(mode, size, "red" if mode in ("RGB", "CMYK") else 40_000).save(path, **options)
    return path


def animation(path: Path) -> Path:
    """A gif or webp of three frames."""
    from PIL import Image

    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def clip(path: Path, count: int = 17) -> Path:
    """A video of noise, so that its frames take up most of the file; the index is at its beginning."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return write_video(path, noise, 8)


def cut(path: Path, share: float) -> Path:
    """``path`` with the first ``share`` of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def without_index(path: Path) -> Path:
    """An mp4 whose moov box is none any more."""
    path.write_bytes(path.read_bytes().replace(b"moov", b"none"))
    return path


def video_without_frames(path: Path) -> Path:
    """An mp4 with a video track that holds nothing."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.start_encoding()
    return path


def sound(path: Path) -> Path:
    """An mp4 of nothing but silence."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


def png_header(path: Path, width: int, height: int) -> Path:
    """A png that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path
