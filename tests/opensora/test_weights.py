"""Where weights are found, and what is said when they are missing or damaged."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from opensora.config.loading import load_config
from opensora.utils import hub
from opensora.utils.errors import WeightsError
from opensora.utils.safetensors_header import check_safetensors, read_safetensors_shapes
from opensora.utils.weights import locate_weights, model_depth

ROOT = Path(__file__).resolve().parents[2]


def make_folder(folder: Path, tokenizer: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"depth": 3}')
    save_file({"a.weight": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def config(tmp_path):
    """The mini config with three small folders in place of the bundled weights."""
    for name in ("transformer", "vae"):
        make_folder(tmp_path / name)
    make_folder(tmp_path / "text", tokenizer=True)
    return load_config(
        ROOT / "configs/mini/sample.py",
        {"ckpt_path": str(tmp_path / "transformer")},
        {"vae.from_pretrained": str(tmp_path / "vae"), "text_encoder.from_pretrained": str(tmp_path / "text")},
    )


def message_of(config) -> str:
    with pytest.raises(WeightsError) as caught:
        locate_weights(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_local_folders_are_found_and_put_into_the_config(config, tmp_path):
    weights = locate_weights(config)
    assert (weights.model, weights.text_encoder) == (str(tmp_path / "transformer"), str(tmp_path / "text"))
    assert weights.to_download == () and weights.downloaded() is not None
    assert weights.applied_to(config).vae.from_pretrained == str(tmp_path / "vae")


def test_relative_folders_are_looked_up_from_the_working_directory(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = load_config(ROOT / "configs/mini/sample.py", {"ckpt_path": "transformer"})
    assert model_depth(relative.model.from_pretrained, "STDiT3") == 3


def test_the_depth_of_the_published_model_is_known_without_its_files():
    assert model_depth("owner/not-cached", "STDiT3-XL/2") == 28
    assert model_depth("owner/not-cached", "STDiT3") is None


@pytest.mark.parametrize(
    ("piece", "file"),
    [
        ("transformer", "config.json"),
        ("vae", "model.safetensors"),
        ("text", "tokenizer.json"),
    ],
)
def test_an_incomplete_folder_is_refused(config, tmp_path, piece, file):
    (tmp_path / piece / file).unlink()
    message = message_of(config)
    assert str(tmp_path / piece) in message and file in message


def test_all_problems_are_told_at_once(config, tmp_path):
    (tmp_path / "vae/config.json").unlink()
    (tmp_path / "text/model.safetensors").write_bytes(b"no")
    message = message_of(config)
    assert str(tmp_path / "vae") in message and str(tmp_path / "text/model.safetensors") in message


def test_folders_that_do_not_exist_are_named_together(tmp_path, monkeypatch):
    flags = {"ckpt_path": "./no/model"}
    config = load_config(ROOT / "configs/mini/sample.py", flags, {"vae.from_pretrained": str(tmp_path / "no")})
    message = message_of(config)
    assert "'./no/model' (model)" in message and f"'{tmp_path / 'no'}' (vae)" in message and "config.json" in message


def test_shards_are_checked_one_by_one(config, tmp_path):
    folder = tmp_path / "transformer"
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors" in message_of(config)
    save_file({"b.weight": np.zeros(1, np.float32)}, folder / "model-2.safetensors")
    locate_weights(config)
    (folder / "model-2.safetensors").write_bytes(b"short")
    assert "model-2.safetensors is corrupt or truncated" in message_of(config)


def test_a_text_encoder_may_come_as_torch_files(config, tmp_path):
    folder = tmp_path / "text"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    locate_weights(config)


def test_unreachable_repositories_are_named_with_size_and_remedy(monkeypatch):
    monkeypatch.setattr(hub, "cached_file", lambda repo, file: None)
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    message = message_of(load_config(ROOT / "configs/sample.py"))
    for word in ("hpcai-tech/OpenSora-STDiT-v3 (4.8 GB)", "hpcai-tech/OpenSora-VAE-v1.2 (1.6 GB)"):
        assert word in message
    for word in ("DeepFloyd/t5-v1_1-xxl (19 GB)", "hf download", "from_pretrained", "configs/mini/"):
        assert word in message


def test_a_reachable_hub_leaves_the_download_for_later(monkeypatch):
    monkeypatch.setattr(hub, "cached_file", lambda repo, file: None)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    weights = locate_weights(load_config(ROOT / "configs/sample.py"))
    assert weights.to_download == ("model", "vae", "text_encoder")
    assert weights.vae == "hpcai-tech/OpenSora-VAE-v1.2"


def test_a_cached_snapshot_is_used_unless_it_has_gaps(config, tmp_path, monkeypatch):
    snapshot = make_folder(tmp_path / "snapshot")
    monkeypatch.setattr(hub, "cached_file", lambda repo, file: str(snapshot / file))
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    config = load_config(
        config.path,
        {"ckpt_path": "owner/name"},
        {
            "vae.from_pretrained": config.vae.from_pretrained,
            "text_encoder.from_pretrained": config.text_encoder.from_pretrained,
        },
    )
    assert locate_weights(config).model == str(snapshot)
    (snapshot / "model.safetensors").unlink()
    assert locate_weights(config).to_download == ("model",)


def test_offline_never_touches_the_network(monkeypatch):
    monkeypatch.setattr(hub, "is_offline", lambda: True)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    assert not hub.is_reachable()


def test_a_hub_that_never_answers_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "_TIMEOUT", 0.1)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(30) or socket.socket())
    start = time.monotonic()
    assert not hub.is_reachable()
    assert time.monotonic() - start < 10


def test_shapes_are_read_from_the_header(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int64)}, path)
    assert read_safetensors_shapes(path) == {"a": ("F32", (2, 3)), "b": ("I64", (4,))}


@pytest.mark.parametrize("keep", [0, 7, 30, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model\.safetensors is corrupt or truncated"):
        check_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',  # two numbers need 8 bytes
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32"}}',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(WeightsError, match="corrupt or truncated"):
        check_safetensors(path)


def test_an_absurd_header_length_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match="header is cut off"):
        check_safetensors(path)
