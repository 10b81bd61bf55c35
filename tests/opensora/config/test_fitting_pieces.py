"""Checkpoints are compared with each other, with the config and with the video before any weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from opensora.config.loading import config_from_dict
from opensora.errors import ConfigError, WeightsError
from opensora.load_models import check_models, load_models
from support import tiny_latte


@pytest.fixture
def folder(latte_folder, tmp_path) -> Path:
    return Path(shutil.copytree(latte_folder, tmp_path / "copy"))


def with_entry(path: Path, name: str, value: object) -> None:
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({**entries, name: value}))


def test_the_pieces_of_a_checkpoint_fit(latte, plan):
    for load in (latte, plan):
        check_models(load())
        models = load_models(load(), with_text_encoder=False)
        assert models.model.config.depth >= 2 and models.vae.out_channels == 4


def test_any_length_of_captions_is_fine(latte):
    check_models(latte({"text_encoder.model_max_length": 7}))


def test_a_text_encoder_of_another_width(folder, plan_folder):
    entries = tiny_latte.latte_config(folder)
    entries["text_encoder"]["from_pretrained"] = str(plan_folder / "text_encoder")
    with pytest.raises(ConfigError, match=r"has features of width 24, but .* reads 20; they do not belong together"):
        check_models(config_from_dict(entries))


def test_weights_of_another_model(folder):
    config = config_from_dict(tiny_latte.latte_config(folder))
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "transformer")
    with pytest.raises(WeightsError, match=r"transformer does not fit LatteTransformer3DModel: it lacks "):
        check_models(config)


def test_a_length_that_came_with_a_download(folder):
    """What was not on the machine when the config was read is compared when it is."""
    config = config_from_dict(tiny_latte.latte_config(folder))
    with_entry(folder / "transformer/config.json", "video_length", 9)
    with pytest.raises(ConfigError, match="num_frames is 5, but the transformer .* makes videos of 9 frames"):
        check_models(config)
