"""References: upstream's resize and crop, what files really hold, and one sentence for what cannot be used."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from opensora.conditioning.reference_frames import VideoFile
from opensora.conditioning.reference_pixels import crop_frame, read_reference
from opensora.conditioning.references import (
    check_reference,
    resolve_reference,
    sha256_of,
    split_references,
)
from opensora.datasets.video_io import write_video
from opensora.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
ROWS = json.loads((GOLDEN / "image.json").read_text())["rows"]
INPUTS = load_file(GOLDEN / "image_inputs.safetensors")
OUTPUTS = load_file(GOLDEN / "image_outputs.safetensors")


def gray_levels(tensor: torch.Tensor) -> list[int]:
    """The first channel of the top left pixel of each frame, 0 to 255."""
    return ((tensor[0, :, 0, 0] + 1) * 127.5).round().int().tolist()


def save_frames(path: Path, levels: list[int], **options) -> Path:
    """An animated image of gray frames."""
    first, *rest = [Image.new("RGB", (24, 16), (level,) * 3) for level in levels]
    first.save(path, save_all=True, append_images=rest, **options)
    return path


def write_lossless(path: Path, frames: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def video(tmp_path) -> Path:
    levels = np.arange(12, dtype=np.uint8)[:, None, None, None] * 10 + 40
    return write_video(tmp_path / "clip.mp4", np.broadcast_to(levels, (12, 32, 48, 3)).copy(), 8)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['source_hw']}-{row['target_hw']}")
def test_image_is_the_reference(tmp_path, row):
    name = f"image{row['i']}"
    Image.fromarray(INPUTS[name].numpy()).save(tmp_path / "image.png")
    read = read_reference(tmp_path / "image.png", *row["target_hw"])
    assert read.dtype == torch.float32 and read.shape == (3, 1, *row["target_hw"])
    assert torch.allclose(read, OUTPUTS[name], atol=1e-6)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['source_hw']}-{row['target_hw']}")
def test_video_is_the_reference(tmp_path, row):
    name = f"video{row['i']}"
    frames = INPUTS[name].permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)
    read = read_reference(write_lossless(tmp_path / "clip.mkv", frames), *row["target_hw"])
    assert torch.allclose(read, OUTPUTS[name], atol=1e-6)


def test_frames_keep_nothing_of_what_is_cut_off():
    frame = crop_frame(np.zeros((10, 1000, 3), dtype=np.uint8), 10, 10)
    assert frame.shape == (3, 10, 10) and frame.untyped_storage().size() == 3 * 10 * 10 * 4


@settings(max_examples=100, deadline=None, derandomize=True)
@given(*[st.integers(1, 40)] * 4)
def test_every_size_covers_every_size(source_height, source_width, height, width):
    frame = np.full((source_height, source_width, 3), 255, dtype=np.uint8)
    assert crop_frame(frame, height, width).shape == (3, height, width)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff", ".mp4", ""])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_content_decides_what_a_file_is(tmp_path, kind, ending):
    path = tmp_path / f"image{ending}"
    Image.new("RGB", (40, 20), (200, 200, 200)).save(path, format=kind)
    info = check_reference(path)
    assert (info.kind, info.width, info.height, info.frames, info.path) == ("image", 40, 20, 1, path)
    assert gray_levels(read_reference(path, 16, 16)) == [200]


@pytest.mark.parametrize("ending", [".mp4", ".png", ".txt"])
def test_video(video, tmp_path, ending):
    path = video.rename(tmp_path / f"renamed{ending}")
    info = check_reference(str(path))
    assert (info.kind, info.width, info.height, info.frames) == ("video", 48, 32, 12)
    read = read_reference(path, 16, 16)
    assert read.shape == (3, 12, 16, 16) and read.min() >= -1 and read.max() <= 1
    assert gray_levels(read) == pytest.approx([40 + 10 * i for i in range(12)], abs=4)
    assert torch.equal(read_reference(path, 16, 16, max_frames=5), read[:, :5])
    assert torch.equal(read_reference(path, 16, 16, max_frames=99), read)
    assert torch.equal(read_reference(path, 16, 16, last_frames=5), read[:, -5:])
    assert torch.equal(read_reference(path, 16, 16, last_frames=99), read)


@pytest.mark.parametrize("ending, options", [(".gif", {}), (".webp", {"lossless": True}), (".png", {})])
def test_animated_images_are_videos(tmp_path, ending, options):
    path = save_frames(tmp_path / f"animation{ending}", [0, 100, 200], **options)
    info = check_reference(path)
    assert (info.kind, info.width, info.height, info.frames) == ("video", 24, 16, 3)
    assert gray_levels(read_reference(path, 8, 8)) == [0, 100, 200]
    assert gray_levels(read_reference(path, 8, 8, max_frames=2)) == [0, 100]


def test_the_picture_for_viewers_that_play_no_animation_is_no_frame_of_it(tmp_path):
    path = save_frames(tmp_path / "animation.png", [0, 100, 200], default_image=True)
    assert check_reference(path).frames == 2
    assert gray_levels(read_reference(path, 8, 8)) == [100, 200]


def test_pages_of_a_tiff_are_no_video(tmp_path):
    path = save_frames(tmp_path / "pages.tiff", [50, 100])
    assert check_reference(path).kind == "image"
    assert gray_levels(read_reference(path, 8, 8)) == [50]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tiff", ".webp"])
def test_photos_are_turned_as_they_are_shown(tmp_path, ending):
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # the left half, which is the upper one when turned right
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / f"photo{ending}", exif=exif)
    info = check_reference(tmp_path / f"photo{ending}")
    assert (info.width, info.height) == (20, 40)
    read = read_reference(tmp_path / f"photo{ending}", 40, 20)
    assert read[:, :, :16].min() > 0.9 and read[:, :, 24:].max() < -0.9


@pytest.mark.parametrize(
    "mode, color",
    [
        ("L", 100),
        ("LA", (100, 0)),
        ("RGBA", (100, 100, 100, 0)),
        ("P", 100),
        ("CMYK", (155, 155, 155, 0)),
        ("I;16", 25700),
    ],
)
def test_modes(tmp_path, mode, color, recwarn):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = Image.new(mode, (16, 16), color)
    if mode == "P":
        image.putpalette([i // 3 for i in range(768)])
        image.info["transparency"] = bytes([0] * 256)
    image.save(path)
    check_reference(path)
    assert gray_levels(read_reference(path, 8, 8)) == pytest.approx([100], abs=1)  # alpha is dropped, as upstream
    assert not recwarn.list


def test_bilevel_and_16_bit_ends(tmp_path):
    for mode, color in (("1", 1), ("I;16", 65_535)):
        Image.new(mode, (8, 8), color).save(tmp_path / "image.png")
        assert gray_levels(read_reference(tmp_path / "image.png", 8, 8)) == [255]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def test_damaged_files_are_refused_before_anything_is_loaded(tmp_path, video):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for ending in (".png", ".jpg", ".webp", ".bmp"):
        path = tmp_path / f"image{ending}"
        Image.fromarray(noise).save(path)
        path.write_bytes(truncated(path.read_bytes()))
        with pytest.raises(ConfigError, match=rf"reference '{path}' is .*(damaged|cut off)"):
            check_reference(path)
        with pytest.raises(ConfigError, match=str(path)):
            read_reference(path, 16, 16)


def test_a_video_without_its_index(tmp_path):
    path = tmp_path / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:  # the index at the end, where other tools put it
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(truncated(path.read_bytes()))
    with pytest.raises(ConfigError, match="is a video that is cut off or damaged .* download it again"):
        check_reference(path)


def test_a_video_without_frames(tmp_path):
    path = tmp_path / "empty.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        container.start_encoding()
    with pytest.raises(ConfigError, match=r"empty.mp4' (holds no|is a video that is cut off)"):
        check_reference(path)


def test_sound_alone(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ConfigError, match="sound.mp4' holds only sound; give an image or a video"):
        check_reference(path)


def png_header(width: int, height: int) -> bytes:
    """A png whose header claims a size, with next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size, message",
    [
        ((10_001, 10_000), "is 10001x10000 pixels, more than 100 million; make it smaller"),
        ((50_000, 50_000), "more pixels than can be decoded"),
        ((8, 800), "is 8x800 pixels, too narrow"),
    ],
)
def test_images_that_would_fill_the_memory(tmp_path, size, message, recwarn):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(ConfigError, match=message):
        check_reference(path)
    assert not recwarn.list


def test_what_is_no_reference(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.txt").write_text("a red circle\n" * 20)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost/x.mp4\n")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    cases = {
        tmp_path / "none.png": "does not exist",
        tmp_path / "link.png": "does not exist",
        tmp_path: "is a folder; give an image or a video",
        tmp_path / "empty.png": "is empty",
        tmp_path / "text.txt": "is neither an image .* nor a video",
        tmp_path / "list.mp4": "is neither an image .* nor a video",
        tmp_path / "pipe.png": "is not a regular file",
        tmp_path / ("x" * 300): "file name too long|does not exist",
        Path("nul\0byte.png"): "does not exist",
        Path("https://host/a.png"): "is a URL; download it",
        "https://host/a.png": "is a URL; download it",
    }
    for path, message in cases.items():
        with pytest.raises(ConfigError, match=message) as error:
            check_reference(path)
        assert "\n" not in str(error.value) and str(error.value).startswith("reference '")


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"secret.png' cannot be read \(permission denied\)"):
        check_reference(path)


def test_sizes_are_checked(tmp_path):
    for arguments in ((0, 8), (8, 0), (8, 8, 0)):
        with pytest.raises(ConfigError, match="must be at least 1"):
            read_reference(tmp_path / "none.png", *arguments)


def test_damage_behind_the_first_frame(tmp_path, video, monkeypatch):
    def breaks_off(self):
        yield np.zeros((32, 48, 3), dtype=np.uint8)
        raise av.error.InvalidDataError(1, "Invalid data", "x")

    monkeypatch.setattr(VideoFile, "_decoded", breaks_off)
    check_reference(video)
    with pytest.raises(ConfigError, match=r"clip.mp4' is damaged after frame 1 \(Invalid data\)"):
        read_reference(video, 16, 16)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_damage_anywhere_is_read_or_refused(tmp_path_factory, damageable, data):
    content = bytearray(data.draw(st.sampled_from(damageable)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        check_reference(path)
        assert read_reference(path, 8, 8, max_frames=3).shape[2:] == (8, 8)
    except ConfigError as error:
        assert str(error).startswith("reference '")


@pytest.fixture(scope="module")
def damageable(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("whole")
    for ending in (".png", ".jpg", ".webp", ".bmp", ".tiff"):
        Image.new("RGB", (16, 16), (9, 99, 199)).save(folder / f"still{ending}")
    save_frames(folder / "animation.gif", [0, 100])
    write_video(folder / "clip.mp4", np.full((3, 16, 16, 3), 99, dtype=np.uint8), 8)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_split():
    assert split_references("a.png") == ["a.png"]
    assert split_references(" a.png; b b.mp4 ") == ["a.png", "b b.mp4"]
    assert split_references(" ") == []
    for text in ("a;", ";a", "a;;b", ";"):
        with pytest.raises(ConfigError, match=f"reference_path '{text}' has an empty entry"):
            split_references(text)


def test_resolve(tmp_path, monkeypatch):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "both.png").touch()
    (tmp_path / "both.png").touch()
    (tmp_path / "one.png").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_reference("both.png", tmp_path / "prompts") == tmp_path / "prompts" / "both.png"
    assert resolve_reference("one.png", tmp_path / "prompts") == Path("one.png")
    assert resolve_reference("both.png", None) == Path("both.png")
    assert resolve_reference("none.png", tmp_path) == Path("none.png")
    assert resolve_reference(str(tmp_path / "one.png"), Path("prompts")) == tmp_path / "one.png"
    assert resolve_reference("~nobody-of-this-name/a.png", None) == Path("~nobody-of-this-name/a.png")
    assert resolve_reference("x" * 300, tmp_path) == Path("x" * 300)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ConfigError, match="cannot be read"):
        sha256_of(tmp_path / "b")
