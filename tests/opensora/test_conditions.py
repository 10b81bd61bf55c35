from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from adacache.calibration.calibration import Calibration
from opensora.config.loading import load_config
from opensora.config.target import conditions_of, mismatch
from opensora.errors import ConfigError, WeightsError
from opensora.weights import fingerprint
from support import small_model

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / small_model.SAMPLE
SIZE = 4_000_000
LAST_SAMPLE = SIZE - 16_384  # where the last of 64 evenly spaced samples begins


@pytest.fixture
def weights(tmp_path) -> Path:
    """A folder with a weight file larger than what is read of it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(SIZE))
    return folder


def flip(file: Path, position: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte[0] ^ 1]))


def test_the_same_weights_have_the_same_fingerprint_wherever_they_lie(weights, tmp_path):
    first = fingerprint(weights)
    assert len(first) == 16
    assert fingerprint(str(weights)) == first
    assert fingerprint(shutil.copytree(weights, tmp_path / "copy")) == first
    (weights / "config.json").write_text('{"depth": 4}')  # no weights
    assert fingerprint(weights) == first


@pytest.mark.parametrize(
    "position", [0, 1000, LAST_SAMPLE * 20 // 63, LAST_SAMPLE * 31 // 63 + 5, LAST_SAMPLE, SIZE - 1]
)
def test_one_changed_weight_at_a_sampled_place_changes_it(weights, position):
    before = fingerprint(weights)
    flip(weights / "model.safetensors", position)
    assert fingerprint(weights) != before
    flip(weights / "model.safetensors", position)
    assert fingerprint(weights) == before


def test_a_longer_or_shorter_file_changes_it(weights):
    before = fingerprint(weights)
    (weights / "model.safetensors").write_bytes(bytes(SIZE + 1))
    assert fingerprint(weights) != before


@pytest.mark.parametrize("size", [1, 16_384, 16_385])
def test_a_file_smaller_than_the_samples_is_read_as_a_whole(tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(bytes(size))
    before = fingerprint(tmp_path)
    for position in {0, size // 2, size - 1}:
        flip(tmp_path / "model.safetensors", position)
        assert fingerprint(tmp_path) != before
        flip(tmp_path / "model.safetensors", position)


def test_all_shards_count(tmp_path):
    names = ["a.safetensors", "b.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("xy", names, strict=True))})
    )
    for name in names:
        (tmp_path / name).write_bytes(bytes(100))
    before = fingerprint(tmp_path)
    flip(tmp_path / "b.safetensors", 50)
    assert fingerprint(tmp_path) != before


def test_a_folder_without_weights_has_none(tmp_path):
    with pytest.raises(WeightsError, match="holds no weights"):
        fingerprint(tmp_path)
    with pytest.raises(WeightsError, match="hpcai-tech/OpenSora-STDiT-v3 holds no weights"):
        fingerprint("hpcai-tech/OpenSora-STDiT-v3")  # a repository is no folder


def test_the_bundled_calibration_was_made_for_the_bundled_model_and_config():
    config = load_config(MINI)
    conditions = Calibration.load(ROOT / config.calibration).conditions
    assert conditions["model"] == fingerprint(ROOT / config.model.from_pretrained)
    assert mismatch(conditions, config) is None


def test_what_a_config_says_about_itself():
    config = load_config(MINI, {"image_size": [64, 96], "num_frames": 34, "cfg_scale": 3, "solver": "adams"})
    assert conditions_of(config) == {"image_size": [64, 96], "num_frames": 34, "cfg_scale": 3.0, "solver": "adams"}
    assert mismatch({**conditions_of(config), "model": "whatever it is"}, config) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": [64, 96]}, "it was made for image size (height, width) [64, 64], but this run has [64, 96]"),
        ({"num_frames": 34}, "it was made for number of frames 17, but this run has 34"),
        ({"cfg_scale": 4.5}, "it was made for guidance scale 5.0, but this run has 4.5"),
        ({"solver": "midpoint"}, "it was made for solver euler, but this run has midpoint"),
    ],
)
def test_a_run_under_another_condition_is_told_which(changed, message):
    assert mismatch(conditions_of(load_config(MINI)), load_config(MINI, changed)) == message


def test_other_settings_are_no_condition():
    conditions = conditions_of(load_config(MINI))
    assert mismatch(conditions, load_config(MINI, {"num_sampling_steps": 50, "seed": 3, "dtype": "bf16"})) is None


@pytest.mark.parametrize("name", ["image_size", "num_frames", "cfg_scale"])
def test_a_calibration_that_does_not_say_is_told_so(name):
    config = load_config(MINI)
    conditions = conditions_of(config)
    del conditions[name]
    assert mismatch(conditions, config).startswith("it does not say which ")


def test_a_calibration_that_names_no_solver_was_made_with_euler_steps():
    conditions = conditions_of(load_config(MINI))
    del conditions["solver"]
    assert mismatch(conditions, load_config(MINI)) is None
    message = "it was made for solver euler, but this run has adams"
    assert mismatch(conditions, load_config(MINI, {"solver": "adams"})) == message


def test_a_target_is_refused_with_a_solver_that_was_not_calibrated():
    message = "does not fit: it was made for solver euler, but this run has adams; run 'python scripts/calibrate.py'"
    with pytest.raises(ConfigError, match=message):
        load_config(MINI, {"solver": "adams", "speedup": 2.0})
