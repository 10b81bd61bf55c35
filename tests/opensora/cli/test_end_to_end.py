"""The command on the bundled model: references, long videos, odd sizes, sidecars."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adacache.calibration.quality import psnr
from opensora.datasets.video_io import read_video, write_video
from scripts import inference
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
MINI = str(ROOT / small_model.ADACACHE)
PROMPT = "a red circle moving slowly to the right"
FEW = ("--num-sampling-steps", "6")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> np.ndarray:
    """Frames (F, H, W, 3) of a video of the prompt."""
    return sample(tmp_path_factory.mktemp("clip"), "--prompt", PROMPT)["sample_0000.frames.npz"]


def sample(folder: Path, *arguments: str, config: str = MINI) -> dict[str, np.ndarray]:
    """Run the command; the frames of all videos by file name."""
    logging.getLogger("opensora").propagate = True
    assert inference.main([config, *arguments, "--save-frames", "--save-dir", str(folder), "--verbose", "1"]) == 0
    return {path.name: np.load(path)["frames"] for path in sorted(folder.glob("*.frames.npz"))}


def sidecar(folder: Path, name: str = "sample_0000") -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_images_first_then_videos_that_start_with_them(tmp_path):
    prompts = ["--prompt", "a growing blue square on a black background", "a still yellow star"]
    images = sample(tmp_path / "images", *prompts, "--num-frames", "1", config=str(ROOT / small_model.SAMPLE))
    assert [frames.shape for frames in images.values()] == [(1, 64, 64, 3)] * 2
    (video,) = sample(tmp_path / "videos", *prompts[:2], "--reference-path", str(tmp_path / "images")).values()
    image, other = images.values()
    assert video.shape == (17, 64, 64, 3)
    assert psnr(video[0], image[0]) > 24 > psnr(video[0], other[0])
    assert psnr(video[0], image[0]) > psnr(video[-1], image[0]) + 3  # it grows away from it
    about = sidecar(tmp_path / "videos")["metadata"]
    assert about["references"][0]["path"].endswith("images/sample_0000.png")
    assert about["mask_strategy"] == "0,0,0,0,1"


def test_two_images_are_the_first_and_the_last_frame(tmp_path, clip):
    for name, frame in (("first", clip[0]), ("last", clip[-1])):
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
    both = f"{tmp_path / 'first.png'};{tmp_path / 'last.png'}"
    video = sample(tmp_path / "out", "--prompt", PROMPT, "--reference-path", both)["sample_0000.frames.npz"]
    assert psnr(video[0], clip[0]) > 24
    assert psnr(video[-1], clip[-1]) > psnr(video[-1], clip[0])


def test_a_clip_is_continued_from_its_end(tmp_path, clip):
    longer = np.concatenate([np.repeat(clip[:1], 3, axis=0), clip])  # 20 frames: chunks are counted from the end
    path = write_video(tmp_path / "clip.mp4", longer, 8, crf=0)
    video = sample(tmp_path / "out", "--prompt", PROMPT, "--num-frames", "34", "--reference-path", str(path))
    frames = video["sample_0000.frames.npz"]
    assert frames.shape[0] == 34
    assert psnr(frames[:17], clip) > 25
    trace = sidecar(tmp_path / "out")
    assert 2 < len(trace["computed_steps"]) <= 30


def test_the_step_at_which_an_edited_frame_joins_is_computed(tmp_path, clip):
    path = write_video(tmp_path / "clip.mp4", clip, 8, crf=0)
    edit = ("--reference-path", str(path), "--mask-strategy", "0,0,0,0,3,0.5")
    sample(tmp_path / "out", "--prompt", PROMPT, *edit)
    trace = sidecar(tmp_path / "out")
    joined = [record["index"] for record in trace["records"] if record.get("joined")]
    assert len(joined) == 1 and joined[0] in trace["computed_steps"]
    sample(tmp_path / "compat", "--prompt", PROMPT, *edit, "--compat")
    assert not any(record.get("joined") for record in sidecar(tmp_path / "compat")["records"])


def test_a_long_video_reads_a_text_for_each_loop(tmp_path):
    arguments = ("--num-frames", "34", "--num-sampling-steps", "4")
    loops = ("--prompt", "|0| a still red star |1| a still blue circle", "--loop", "2", *arguments)
    long = sample(tmp_path / "long", *loops)["sample_0000.frames.npz"]
    short = sample(tmp_path / "short", "--prompt", "a still red star", *arguments)["sample_0000.frames.npz"]
    assert long.shape == (51, 64, 64, 3)
    assert np.array_equal(long[:34], short)
    about = sidecar(tmp_path / "long")["metadata"]
    assert about["captions"] == ["a still red star", "a still blue circle"]
    assert sidecar(tmp_path / "long", "sample_0000.loop1")["metadata"]["loop"] == 1
    upstream = sample(tmp_path / "upstream", *loops, "--compat")["sample_0000.frames.npz"]
    assert np.array_equal(long[:34], upstream[:34]) and not np.array_equal(long[34:], upstream[34:])


def test_odd_sizes_are_what_was_asked_for(tmp_path):
    height, width = 9, 75
    arguments = ("--prompt", PROMPT, "--image-size", str(height), str(width), "--num-sampling-steps", "3")
    frames = sample(tmp_path / "out", *arguments, "--save-fps", "1")["sample_0000.frames.npz"]
    assert frames.shape == (17, height, width, 3)
    video, fps = read_video(tmp_path / "out/sample_0000.mp4")
    assert video.shape == (17, height + height % 2, width + width % 2, 3) and fps == 1
    Image.new("RGB", (500, 100), "blue").save(tmp_path / "blue.png")
    given = sample(tmp_path / "given", *arguments, "--reference-path", str(tmp_path / "blue.png"))
    assert given["sample_0000.frames.npz"].shape == (17, height, width, 3)
    upstream = sample(tmp_path / "upstream", *arguments, "--compat")["sample_0000.frames.npz"]
    assert upstream.shape == (17, height // 8 * 8, width // 8 * 8, 3)


def test_a_sidecar_is_enough_to_make_the_video_again(tmp_path):
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "gray.png")
    lines = [{"prompt": PROMPT, "seed": 77, "steps": 8, "reference_path": "gray.png"}]
    lines += [{"prompt": "a red star", "steps": 10}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sample(tmp_path / "out", "--prompt-path", str(tmp_path / "prompts.jsonl"), "--max-steps-computed", "7")
    for name in ("sample_0000", "sample_0001"):
        assert inference.main(["--from-sidecar", str(tmp_path / f"out/{name}.json")]) == 0
        again = tmp_path / f"out/reproduced/{name}.mp4"
        assert again.read_bytes() == (tmp_path / f"out/{name}.mp4").read_bytes()
    other = ["--from-sidecar", str(tmp_path / "out/sample_0001.json"), "--cfg-options", "cache=None"]
    assert inference.main([*other, "--save-dir", str(tmp_path / "uncached")]) == 0
    assert "records" not in sidecar(tmp_path / "uncached", "sample_0001")
    older = sidecar(tmp_path / "out")
    older["metadata"]["config"]["save_frames"] = "npz"
    (tmp_path / "out/sample_0000.json").write_text(json.dumps(older))
    assert inference.main(["--from-sidecar", str(tmp_path / "out/sample_0000.json"), "--crf", "30"]) == 0
    Image.new("RGB", (64, 64), "white").save(tmp_path / "gray.png")
    assert inference.main(["--from-sidecar", str(tmp_path / "out/sample_0000.json")]) == 2


def test_everything_that_can_be_written_is_there(tmp_path):
    arguments = ("--prompt", PROMPT, "--num-sampling-steps", "3", "--preview", "apng")
    frames = sample(tmp_path / "out", *arguments, "--contact-sheet", "--watermark")
    plain = sample(tmp_path / "plain", *arguments)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "contact_sheet.png" in names and any("apng" in name or name.endswith("preview.png") for name in names)
    assert not np.array_equal(frames["sample_0000.frames.npz"], plain["sample_0000.frames.npz"])


def test_low_memory_makes_nearly_the_same_video(tmp_path):
    arguments = ("--prompt", PROMPT, *FEW)
    usual = sample(tmp_path / "usual", *arguments)["sample_0000.frames.npz"]
    low = sample(tmp_path / "low", *arguments, "--low-memory")["sample_0000.frames.npz"]
    assert psnr(low, usual) > 30
