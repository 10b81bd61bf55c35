"""opensora compare: one prompt without a cache and with several, measured and side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adacache import AdaCacheConfig
from adacache.calibration.quality import psnr
from opensora.cli.compare import WARM_UP_STEPS, Variant
from opensora.commands.compare import main, read_configs
from opensora.config.loading import load_config
from opensora.datasets.video_io import read_video
from opensora.files import REPO_ROOT
from opensora.pipeline import SamplingPipeline
from opensora.registry import SCHEDULERS, build_module
from support import small_model

MINI = small_model.SAMPLE
PROMPT = "a bouncing red star"
COMPUTED = [0, 1, 3, 5]


def static(path: Path, computed: list[int], seed: int) -> str:
    """The path of a config whose cache computes these steps."""
    cache = f"dict(policy='static', computed_steps={computed})"
    path.write_text(f"_base_ = {str(REPO_ROOT / MINI)!r}\ncache = {cache}\nseed = {seed}\n")
    return str(path)


def test_figures_video_and_picture(tmp_path, capsys):
    four = static(tmp_path / "sample_four.py", COMPUTED, seed=3)
    all_six = static(tmp_path / "sample_all.py", [*range(6)], seed=4)  # all begin with the first config's noise
    arguments = ["--prompt", PROMPT, "--num-sampling-steps", "6", "--save-dir", str(tmp_path / "out")]
    assert main([four, "--with", all_six, *arguments]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    (uncached, of_four, of_all), wrote = (line.split() for line in lines[:3]), lines[3:]
    assert uncached[:4] == ["no", "cache", "-", "6/6"]
    assert (of_four[0], of_four[2:4]) == (four, ["dB", "4/6"])
    assert of_all[:3] == [all_six, "equal", "6/6"]
    assert wrote == [f"wrote {tmp_path}/out/comparison{ending}" for ending in (".mp4", ".preview.webp")]

    configs = [load_config(path, {"num_sampling_steps": 6}) for path in (MINI, four)]
    pipe = SamplingPipeline.from_config(configs[0])
    whole, part = (pipe.with_config(config)(PROMPT, seed=3, progress=False).videos[0] for config in configs)
    assert float(of_four[1]) == pytest.approx(psnr(part, whole), abs=0.05)
    frames, rate = read_video(tmp_path / "out/comparison.mp4")
    assert (len(frames), rate) == (17, 8)
    assert frames.shape[2] > 3 * 208
    bar = frames[5, -10].astype(int)[214 + 2 + 17 : 214 + 208 : 35]  # of the second panel, a pixel of each step
    assert np.flatnonzero(bar[:, 2] - bar[:, 0] > 80).tolist() == COMPUTED  # blue, not gray
    with Image.open(tmp_path / "out/comparison.preview.webp") as picture:
        assert picture.n_frames == 17


def test_only_equal_videos_are_called_equal():
    frames = np.full((17, 128, 128, 3), 9, np.uint8)
    nearly = frames.copy()
    nearly[0, 0, :100] += 1
    assert psnr(nearly, frames) == 80
    variant = Variant("a", nearly, None, 30, psnr(nearly, frames), 1.0, 1.0)
    assert variant.figures[2] == "80.0 dB"


def test_the_uncached_run_has_no_cache_of_the_official_files_either(tmp_path):
    path = tmp_path / "official.py"
    model = "dict(do_cache=True, cache_res='t-attn', cache_loc=[1], codebook='fast30')"
    path.write_text(f"_base_ = {str(REPO_ROOT / MINI)!r}\nmodel = {model}\n")
    uncached, cached = read_configs([str(path)], {}, {})
    assert uncached.cache is None and isinstance(cached.cache, AdaCacheConfig)


def test_the_warm_up_is_long_enough_for_every_solver():
    config = load_config("configs/open_sora_plan/sample.py", {"num_sampling_steps": WARM_UP_STEPS})
    assert build_module(vars(config.scheduler), SCHEDULERS).num_model_calls >= WARM_UP_STEPS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([MINI], f"{MINI} computes every step, as the uncached video does"),
        (["--with", "configs/sample_adacache.py"], "configs/sample_adacache.py: 'model' differs from"),
        (["--num-frames", "34", "--cfg-options", "loop=2"], "of one prompt can be compared; leave out 'loop'"),
        (["--with", "configs/mini/sample_nothing.py"], "sample_nothing.py"),
    ],
)
def test_what_cannot_be_compared_is_named(arguments, sentence, capsys):
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
