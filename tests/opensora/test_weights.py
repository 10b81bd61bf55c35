"""Where weights are found, and what is said when they are missing or damaged."""

from __future__ import annotations

import json
import socket
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.hf_api import RepoSibling
from safetensors.numpy import save_file

from opensora.config.loading import load_config
from opensora.config.model_families import model_depth
from opensora.errors import WeightsError
from opensora.weights import download, fingerprint, hub, locate_weights, weight_files
from opensora.weights.checkpoint import read_shapes
from opensora.weights.layout import check_file, describe_format, needed_files
from opensora.weights.locate import Piece, find_piece
from support import small_model

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
        ROOT / small_model.SAMPLE,
        {"ckpt_path": str(tmp_path / "transformer")},
        {"vae.from_pretrained": str(tmp_path / "vae"), "text_encoder.from_pretrained": str(tmp_path / "text")},
    )


def with_sources(config, weights_dir=None, **sources):
    """``config`` with other places of weights."""
    sections = {name: replace(getattr(config, name), from_pretrained=str(path)) for name, path in sources.items()}
    return replace(config, weights_dir=weights_dir and str(weights_dir), **sections)


def message_of(config) -> str:
    with pytest.raises(WeightsError) as caught:
        locate_weights(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_local_folders_are_found_and_put_into_the_config(config, tmp_path):
    weights = locate_weights(config)
    assert (weights.model, weights.text_encoder) == (str(tmp_path / "transformer"), str(tmp_path / "text"))
    assert weights.to_download == () and download.download_missing(weights) is weights
    assert weights.applied_to(config).vae.from_pretrained == str(tmp_path / "vae")


def test_relative_folders_are_looked_up_from_the_working_directory(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = load_config(ROOT / small_model.SAMPLE, {"ckpt_path": "transformer"})
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
    config = load_config(ROOT / small_model.SAMPLE, flags, {"vae.from_pretrained": str(tmp_path / "no")})
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


def test_an_unreadable_list_of_shards_is_named(config, tmp_path):
    folder = tmp_path / "transformer"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[")
    assert f"{folder} lacks a readable model.safetensors.index.json" in message_of(config)


def test_a_torch_file_that_is_cut_off_is_refused_without_torch(config, tmp_path):
    folder = tmp_path / "text"
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", b"x" * 1000)
    locate_weights(config)
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:500])
    assert "pytorch_model.bin is corrupt or truncated (its end is missing)" in message_of(config)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "it is empty" in message_of(config)


def test_a_text_encoder_in_torch_shards(config, tmp_path):
    folder = tmp_path / "text"
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    (folder / names[0]).write_bytes(b"anything")
    assert message_of(config).endswith(f"{folder} lacks {names[1]}")
    (folder / names[1]).write_bytes(b"anything")
    locate_weights(config)


def test_a_weight_file_alone_is_found_and_has_to_be_one(config, tmp_path):
    file = tmp_path / "transformer/model.safetensors"
    assert locate_weights(with_sources(config, model=file)).model == str(file)
    (tmp_path / "notes.txt").write_text("x")
    message = message_of(with_sources(config, model=tmp_path / "notes.txt", text_encoder=file))
    assert "notes.txt' is not a weight file" in message and "text_encoder.from_pretrained=" in message
    assert "is a file; give the folder" in message


def test_training_checkpoints_need_no_config(config, tmp_path):
    folder = tmp_path / "epoch0-global_step10"
    folder.mkdir()
    (folder / "ema.pt").write_bytes(b"averaged")
    assert weight_files(folder) == [folder / "ema.pt"] and describe_format(folder) == "torch (.pt), training checkpoint"
    shard = folder / "model/pytorch_model-00001.bin"
    shard.parent.mkdir()
    shard.write_bytes(b"shard")
    (folder / "model/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard.name}}))
    assert weight_files(folder) == [shard]
    assert locate_weights(with_sources(config, model=folder)).model == str(folder)
    assert message_of(with_sources(config, model=folder / "model")).endswith("model lacks config.json")
    (folder / "running_states.json").write_text("{}")
    assert locate_weights(with_sources(config, model=folder / "model")).model == str(folder / "model")
    assert "lacks" in message_of(with_sources(config, text_encoder=folder))
    assert fingerprint(folder) == fingerprint(folder / "model") == fingerprint(shard)


@pytest.mark.parametrize(
    "place", ["owner/tiny", "tiny", "models--owner--tiny/snapshots/abc", "models--owner--tiny/snapshots/def"]
)
def test_a_folder_of_weights_is_searched_for_repositories(config, tmp_path, place):
    folder = make_folder(tmp_path / "weights" / place)
    config = with_sources(config, tmp_path / "weights", model="owner/tiny")
    assert locate_weights(config).model == str(folder)
    assert model_depth("owner/tiny", "STDiT3", config.weights_dir) == 3


def test_the_folder_of_weights_is_asked_before_the_cache_and_a_complete_copy_wins(config, tmp_path, monkeypatch):
    snapshot = make_folder(tmp_path / "cache/models--owner--tiny/snapshots/abc")
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
    folder = make_folder(tmp_path / "weights/tiny")
    config = with_sources(config, tmp_path / "weights", model="owner/tiny")
    assert locate_weights(config).model == str(folder)
    (folder / "model.safetensors").unlink()
    assert locate_weights(config).model == str(snapshot)
    (snapshot / "model.safetensors").unlink()
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    weights = locate_weights(config)
    assert weights.to_download == ("model",) and weights.weights_dir == str(tmp_path / "weights")
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    assert f"{folder} lacks model.safetensors or" in message_of(config)


def test_the_snapshot_of_main_comes_first(config, tmp_path):
    storage = tmp_path / "weights/models--owner--tiny"
    for commit in ("abc", "def", "fed"):
        make_folder(storage / "snapshots" / commit)
    (storage / "refs").mkdir()
    (storage / "refs/main").write_text("def")
    config = with_sources(config, tmp_path / "weights", model="owner/tiny")
    assert locate_weights(config).model == str(storage / "snapshots/def")


def test_a_file_in_the_folder_of_weights_is_found_by_its_name(config, tmp_path):
    folder = make_folder(tmp_path / "weights")
    (folder / "model.safetensors").rename(folder / "tuned.safetensors")
    config = with_sources(config, folder, model="tuned.safetensors")
    assert locate_weights(config).model == str(folder / "tuned.safetensors")


def test_damaged_missing_and_unreachable_pieces_come_in_one_message(config, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    damaged = tmp_path / "transformer/model.safetensors"
    damaged.write_bytes(b"short")
    config = with_sources(config, tmp_path / "none", vae="owner/absent", text_encoder="./nowhere")
    message = message_of(config)
    for words in (f"weights_dir '{tmp_path / 'none'}' is not a folder", f"{damaged} is corrupt", "vae owner/absent"):
        assert words in message
    assert "'./nowhere' (text_encoder)" in message and "or complete cached copy" in message


def test_unreachable_repositories_are_named_with_size_and_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    message = message_of(load_config(ROOT / "configs/sample.py"))
    for word in ("hpcai-tech/OpenSora-STDiT-v3 (4.8 GB)", "hpcai-tech/OpenSora-VAE-v1.2 (1.6 GB)"):
        assert word in message
    for word in ("DeepFloyd/t5-v1_1-xxl (19 GB)", "scripts/weights.py download", "--weights-dir", "configs/mini/"):
        assert word in message


def test_a_reachable_hub_leaves_the_download_for_later(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    weights = locate_weights(load_config(ROOT / "configs/sample.py"))
    assert weights.to_download == ("model", "vae", "text_encoder")
    assert weights.vae == "hpcai-tech/OpenSora-VAE-v1.2"


def test_a_cached_snapshot_is_used_unless_it_has_gaps(config, tmp_path, monkeypatch):
    snapshot = make_folder(tmp_path / "cache/models--owner--name/snapshots/abc")
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "cache")
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
    assert read_shapes([path]) == {"a": (2, 3), "b": (4,)}


@pytest.mark.parametrize("keep", [0, 30, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model\.safetensors is corrupt or truncated"):
        check_file(path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "flax_model.msgpack"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "model-1-of-1.safetensors", "model.fp16-1-of-1.safetensors"],
            ["model.safetensors.index.json", "model-1-of-1.safetensors"],
        ),
        (["pytorch_model.bin.index.json", "a.bin"], ["pytorch_model.bin.index.json", "a.bin"]),
        (["README.md", "onnx/model.safetensors"], []),
    ],
)
def test_only_what_is_read_is_downloaded(names, expected):
    small = ["config.json", "spiece.model", "tokenizer_config.json"]
    assert sorted(needed_files([*small, *names], "text_encoder")) == sorted(small + expected)


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "size unknown"), (7, "7 B"), (999, "999 B"), (381048, "381 kB"), (1_573e6, "1.6 GB"), (19.05e9, "19 GB")],
)
def test_sizes_in_words(size, text):
    assert hub.size_text(size) == text


def test_a_disk_that_is_full_refuses_the_download(monkeypatch, tmp_path):
    sizes = {"config.json": 10, "model.safetensors": 4_800_000_000}
    files = {name: RepoSibling(rfilename=name, size=size) for name, size in sizes.items()}
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(download, "repo_files", lambda repo: files)
    monkeypatch.setattr(download, "free_space", lambda folder: 1_200_000_000)
    with pytest.raises(WeightsError, match=r"4\.8 GB are needed in .*weights, where 1\.2 GB are free; .*--weights-dir"):
        download.download([Piece("model", "owner/tiny")], tmp_path / "weights")


def test_repositories_of_the_same_name_get_folders_of_their_own(tmp_path):
    pieces = [Piece("model", "a/tiny"), Piece("vae", "b/tiny"), Piece("text_encoder", "b/text")]
    folders = [download.target_folder(piece, pieces, tmp_path) for piece in pieces]
    assert folders == [tmp_path / "a/tiny", tmp_path / "b/tiny", tmp_path / "text"]


def test_a_part_of_a_piece_is_completed_where_it_is(tmp_path):
    folder = make_folder(tmp_path / "owner/tiny")
    (folder / "model.safetensors").unlink()
    piece = find_piece("model", "owner/tiny", tmp_path)
    assert download.target_folder(piece, [piece], tmp_path) == folder
    snapshot = make_folder(tmp_path / "models--owner--other/snapshots/abc")
    (snapshot / "model.safetensors").unlink()
    piece = find_piece("model", "owner/other", tmp_path)
    assert download.target_folder(piece, [piece], tmp_path) == tmp_path / "other"


FILES = ["model_index.json", "text/config.json", "text/model-1-of-1.safetensors", "text/model.safetensors.index.json"]
FILES += ["tokenizer/spiece.model", "tokenizer/tokenizer_config.json", "tokenizer/notes.txt", "vae/config.json"]
FILES += ["vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "vae/old/config.json"]


@pytest.mark.parametrize(
    ("piece", "folder", "expected"),
    [
        ("vae", "vae", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]),
        ("text_encoder", "text", [*FILES[1:6]]),
        ("model", "", ["model_index.json"]),
        ("model", "nothing", []),
    ],
)
def test_a_folder_of_a_repository_and_a_tokenizer_beside_it(piece, folder, expected):
    assert sorted(needed_files(FILES, piece, folder)) == sorted(expected)
    own = [*FILES, "text/tokenizer.json"]
    assert not any(name.startswith("tokenizer/") for name in needed_files(own, piece, folder))


@pytest.mark.parametrize(
    ("name", "parts"),
    [("owner/repo", ("owner/repo", "")), ("owner/re.po/65x512x512", ("owner/re.po", "65x512x512"))],
)
def test_names_on_the_hub(name, parts):
    assert hub.is_repo_name(name) and hub.split_name(name) == parts
    for other in ("repo", "a/b/c/d", "/a/b", "a/b/", "../b/c", "a//c"):
        assert not hub.is_repo_name(other)


def test_a_folder_of_a_repository_is_found_in_every_place(tmp_path):
    for place in ("repo/vae", "owner/repo/vae", "models--owner--repo/snapshots/abc/vae"):
        folder = make_folder(tmp_path / place.replace("/", "_") / place)
        piece = find_piece("vae", "owner/repo/vae", tmp_path / place.replace("/", "_"))
        assert (piece.path, piece.place, piece.is_complete) == (folder, "weights folder", True)
        assert (piece.repo, piece.repo_folder) == ("owner/repo", "vae")


def test_a_folder_that_is_missing_here_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my/models").mkdir(parents=True)
    assert find_piece("vae", "my/models/vae").repo is None
    assert find_piece("vae", "other/models/vae").repo == "other/models"


def test_folders_of_one_repository_stay_together(tmp_path):
    pieces = [Piece("model", "a/tiny/65x512x512"), Piece("vae", "a/tiny/vae"), Piece("text_encoder", "a/text")]
    folders = [download.target_folder(piece, pieces, tmp_path) for piece in pieces]
    assert folders == [tmp_path / "tiny/65x512x512", tmp_path / "tiny/vae", tmp_path / "text"]


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "model.safetensors"])
def test_weights_as_diffusers_names_them(tmp_path, name):
    folder = make_folder(tmp_path / "vae")
    (folder / "model.safetensors").rename(folder / name)
    assert weight_files(folder) == [folder / name]
    assert find_piece("vae", str(folder)).is_complete and len(fingerprint(folder)) == 16


@pytest.mark.parametrize(
    ("model_type", "entries", "depth"),
    [
        ("Latte", '{"num_layers": 2}', 2),
        ("LatteT2V", '{"num_layers": 3}', 3),
        ("Latte", "{}", 28),
        ("STDiT3", "[]", None),
    ],
)
def test_the_depth_is_read_where_the_type_keeps_it(tmp_path, model_type, entries, depth):
    (tmp_path / "config.json").write_text(entries)
    assert model_depth(str(tmp_path), model_type) == depth
