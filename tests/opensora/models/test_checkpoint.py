"""Checkpoints in every format: loaded alike, and refused in one sentence when they are not what they should be."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from opensora.errors import WeightsError
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.models.vae.vae import VideoAutoencoderPipeline
from opensora.weights import hub, layout
from opensora.weights.checkpoint import locate, read_config
from opensora.weights.locate import find_piece
from support import small_model

TINY = STDiT3Config(hidden_size=16, depth=2, num_heads=2, caption_channels=8, model_max_length=6)
MINI = Path(__file__).resolve().parents[3] / small_model.FOLDER


@pytest.fixture(scope="module")
def model() -> STDiT3:
    torch.manual_seed(0)
    return STDiT3(TINY).eval()


@pytest.fixture
def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint folder with nothing but the config."""
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    return tmp_path


def halves(weights: dict[str, torch.Tensor], folder: Path, names: tuple[str, str], index: str) -> None:
    keys = sorted(weights)
    parts = dict(zip(names, (keys[::2], keys[1::2]), strict=True))
    folder.mkdir(exist_ok=True)
    for name, members in parts.items():
        torch.save({key: weights[key] for key in members}, folder / name)
    (folder / index).write_text(json.dumps({"weight_map": {key: name for name in parts for key in parts[name]}}))


def assert_equal(loaded: STDiT3, weights: dict[str, torch.Tensor]) -> None:
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "ema.pt"])
def test_folders(folder, weights, name):
    (save_file if name.endswith("safetensors") else torch.save)(weights, folder / name)
    assert_equal(STDiT3.from_pretrained(folder), weights)
    assert STDiT3.check_pretrained(folder) == TINY


@pytest.mark.parametrize("name", ["tuned.pt", "tuned.pth", "tuned.bin", "tuned.safetensors"])
def test_single_files(folder, weights, name):
    (save_file if name.endswith("safetensors") else torch.save)(weights, folder / name)
    assert_equal(STDiT3.from_pretrained(folder / name), weights)


def test_torch_shards(folder, weights):
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    halves(weights, folder, names, "pytorch_model.bin.index.json")
    assert_equal(STDiT3.from_pretrained(folder), weights)
    (folder / names[1]).unlink()
    with pytest.raises(WeightsError, match=f"lacks 1 of 2 weight files: {names[1]}"):
        STDiT3.from_pretrained(folder)


def test_a_training_checkpoint(folder, weights):
    names = ("pytorch_model-00001.bin", "pytorch_model-00002.bin")
    halves(weights, folder / "model", names, "pytorch_model.bin.index.json")
    averaged = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save(averaged, folder / "ema.pt")
    (folder / "running_states.json").write_text("{}")
    assert_equal(STDiT3.from_pretrained(folder), weights)
    assert_equal(STDiT3.from_pretrained(folder / "model"), weights)
    assert_equal(STDiT3.from_pretrained(folder / "ema.pt"), averaged)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w, "optimizer": {"state": {}}},
        lambda w: {"ema": w, "model": {name: tensor * 0 for name, tensor in w.items()}},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{name}": tensor for name, tensor in w.items()},
        lambda w: {**w, "pos_embed.inv_freq": torch.zeros(4), "rope.cached_freqs": torch.zeros(8, 8)},
    ],
    ids=["state_dict", "model", "ema before model", "nested", "module.", "computed"],
)
def test_what_training_scripts_wrap_around_weights(folder, weights, wrap, is_zip):
    torch.save(wrap(weights), folder / "ckpt.pt", _use_new_zipfile_serialization=is_zip)
    assert_equal(STDiT3.from_pretrained(folder / "ckpt.pt"), weights)


def test_dtype_and_output_do_not_depend_on_the_format(folder, weights):
    torch.save(weights, folder / "ckpt.pt")
    half = STDiT3.from_pretrained(folder / "ckpt.pt", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and not any(p.requires_grad for p in half.parameters())
    save_file(weights, folder / "model.safetensors")
    inputs = dict(x=torch.randn(2, 4, 2, 4, 4), timestep=torch.tensor([500.0, 500.0]), y=torch.randn(2, 1, 6, 8))
    sizes = dict(fps=torch.tensor([24.0]), height=torch.tensor([32.0]), width=torch.tensor([32.0]))
    outputs = [STDiT3.from_pretrained(path)(**inputs, **sizes) for path in (folder, folder / "ckpt.pt")]
    # Not bit by bit: tensors of mapped files lie at other addresses, and sums of vectors start elsewhere.
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-5


def test_the_autoencoder_as_a_torch_file(tmp_path):
    vae = VideoAutoencoderPipeline.from_pretrained(MINI / "vae")
    torch.save(vae.state_dict(), tmp_path / "vae.pth")
    (tmp_path / "config.json").write_text((MINI / "vae/config.json").read_text())
    again = VideoAutoencoderPipeline.from_pretrained(tmp_path / "vae.pth")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in vae.state_dict().items())


def test_a_file_without_a_config_is_of_the_published_size(tmp_path, weights):
    torch.save(weights, tmp_path / "ckpt.pt")
    assert read_config(tmp_path / "ckpt.pt") == {}
    with pytest.raises(WeightsError, match=r"ckpt.pt does not fit STDiT3: it lacks spatial_blocks.2.*published sizes"):
        STDiT3.from_pretrained(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("model_class", [STDiT3, VideoAutoencoderPipeline])
def test_a_file_of_the_published_model_is_known_by_its_shapes(tmp_path, model_class):
    with torch.device("meta"):
        published = model_class(model_class.config_class.from_dict({}))
    path = tmp_path / "published.safetensors"
    header, end = {}, 0
    for name, tensor in published.state_dict().items():
        size = tensor.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:  # a hole in place of gigabytes
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    assert model_class.check_pretrained(path) == published.config


class Attack:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_with_code_is_not_opened(folder, weights, capsys, is_zip):
    path = folder / "ckpt.pt"
    for extra in (Attack(), Namespace(lr=1)):
        torch.save({**weights, "extra": extra}, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(WeightsError, match=rf"{path} holds code \(.*(print|Namespace)\) besides") as caught:
            STDiT3.from_pretrained(path)
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04 cut off", "its end is missing"),
        (b"anything", "corrupt or truncated"),
        ({"epoch": 3}, "holds no table of tensors"),
        ([torch.zeros(2)], "holds no table of tensors"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(folder, content, words):
    path = folder / "pytorch_model.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(WeightsError, match=words) as caught:
        STDiT3.from_pretrained(folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_torch_file_that_is_cut_off_anywhere_is_refused(folder, weights):
    path = folder / "ckpt.pt"
    for is_zip in (True, False):
        torch.save(weights, path, _use_new_zipfile_serialization=is_zip)
        whole = path.read_bytes()
        for share in (0.01, 0.5, 0.99):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(WeightsError, match="corrupt or truncated") as caught:
                STDiT3.from_pretrained(path)
            assert "\n" not in str(caught.value)


def test_shapes_and_names_of_torch_files_are_checked_before_they_are_loaded(folder, weights):
    torch.save({**weights, "t_block.1.bias": torch.zeros(5)}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"t_block.1.bias has shape \(5,\), its config.json asks for \(96,\)"):
        STDiT3.check_pretrained(folder)
    torch.save({**weights, "lora.weight": torch.zeros(5)}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"has unknown lora.weight \(0 missing, 1 unknown"):
        STDiT3.check_pretrained(folder)


def test_all_formats_are_found_by_the_search_for_weights(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin")
    piece = find_piece("model", str(folder))
    assert piece.is_complete and not piece.damage() and layout.describe_format(folder) == "torch (.bin)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "is not a JSON object"),
        ('{"num_heads": 0}', "cannot be used"),
        ('{"in_channels": -1}', "cannot be used"),
        ('{"patch_size": []}', "cannot be used"),
    ],
)
def test_a_config_of_odd_values_is_refused(folder, text, words):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=words):
        STDiT3.check_pretrained(folder)


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds no config.json"):
        STDiT3.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds no weights: model.safetensors or"):
        STDiT3.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="config.json is not valid JSON"):
        STDiT3.from_pretrained(tmp_path)


def test_a_repository_is_refused_at_once_without_a_network(monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    with pytest.raises(WeightsError, match=r"forbids downloads.*owner/absent|cannot be reached.*owner/absent"):
        locate("owner/absent")
    with pytest.raises(WeightsError, match="'./nowhere' is neither a folder, a weight file nor"):
        locate("./nowhere")
