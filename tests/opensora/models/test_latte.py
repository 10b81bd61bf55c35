"""The transformers of Latte and Open-Sora-Plan, against reference forward passes and the tensors of full-size ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adacache import AdaCacheConfig, StepController
from opensora.errors import WeightsError
from opensora.models.latte import LatteModel, OpenSoraPlanModel

GOLDEN = Path(__file__).parents[2] / "golden"
PLAN = GOLDEN / "open_sora_plan" / "transformer"
TOLERANCE = 1e-4
MANIFESTS = {
    LatteModel: "latte_1_transformer_diffusers",
    OpenSoraPlanModel: "open_sora_plan_v110_transformer_65x512x512",
}


def copy_with(tmp_path: Path, **changes: Any) -> Path:
    """The tiny Open-Sora-Plan with other entries in its config."""
    folder = tmp_path / "transformer"
    shutil.copytree(PLAN, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def case(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor.float() for key, tensor in load_file(PLAN / f"{name}.safetensors").items()}


def inputs(vectors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(vectors[f"in.{name}"] for name in ("hidden_states", "timestep", "encoder_hidden_states"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("basic", {}),
        ("text_mask", {}),
        ("image_mode", {}),
        ("other_size", {}),
        ("interp_scales", {"video_length": 33, "sample_size": [128, 128]}),
    ],
)
def test_a_forward_pass_is_that_of_the_reference(tmp_path, name, changes):
    model = OpenSoraPlanModel.from_pretrained(copy_with(tmp_path, **changes), dtype=torch.float32)
    vectors = case(name)
    with torch.no_grad():
        sample = model(*inputs(vectors), mask=vectors.get("in.encoder_attention_mask"))
    assert (sample - vectors["out.sample"]).abs().max() < TOLERANCE


def test_captions_may_come_with_a_dimension_of_their_own():
    model = OpenSoraPlanModel.from_pretrained(PLAN, dtype=torch.float32)
    latents, timestep, text = inputs(case("basic"))
    with torch.no_grad():
        assert torch.equal(model(latents, timestep, text[:, None]), model(latents, timestep, text))


@pytest.mark.parametrize("name", ["basic", "image_mode"])
def test_a_controller_that_computes_everything_changes_nothing(name):
    model = OpenSoraPlanModel.from_pretrained(PLAN, dtype=torch.float32)
    vectors = case(name)
    # An image has no temporal attention to measure in.
    metric = "t-attn" if name == "basic" else "s-attn"
    controller = StepController(AdaCacheConfig(codebook=[(1e-9, 2), (1, 1)], metric=metric, metric_blocks=(1,)))
    with torch.no_grad(), controller.run(2):
        for step in range(2):
            controller.begin_step(step)
            assert torch.equal(model(*inputs(vectors), controller=controller), model(*inputs(vectors)))


@pytest.mark.parametrize("kind", list(MANIFESTS))
def test_the_full_size_model_has_the_published_tensors(kind):
    manifest = json.loads((GOLDEN / "manifests" / f"{MANIFESTS[kind]}.json").read_text())
    with torch.device("meta"):
        model = kind.from_config(manifest["config"])
    own = {name: list(tensor.shape) for name, tensor in model.transformer.state_dict().items()}
    published = {name: shape for name, shape in manifest["tensors"].items() if name not in kind.unused_tensors}
    assert own == published


def test_a_checkpoint_is_loaded_with_and_without_the_empty_caption(tmp_path):
    folder = copy_with(tmp_path)
    weights = load_file(folder / "model.safetensors")
    unused = "caption_projection.y_embedding"
    with_it = {**weights, unused: torch.zeros(7, 24, dtype=torch.float16)}
    without = {name: tensor for name, tensor in weights.items() if name != unused}
    outputs = []
    for tensors in (with_it, without):
        save_file(tensors, folder / "model.safetensors")
        model = OpenSoraPlanModel.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            outputs.append(model(*inputs(case("basic"))))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_rope": True}, r"use_rope is True, which is not supported: the released checkpoints .* use_rope=False"),
        ({"compress_kv_factor": 2}, r"compress_kv_factor is 2, which is not supported"),
        ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm'; only 'ada_norm_single' is supported"),
        ({"sample_size": [8, 16]}, r"sample_size is \[8, 16\]; only square ones"),
        ({"num_layers": "two"}, "num_layers must be a number above 0 such as 28, got 'two'"),
        ({"num_layers": 0}, "num_layers must be a number above 0"),
        ({"num_layers": 4}, "transformer_blocks"),
    ],
)
def test_checkpoints_that_cannot_be_run_are_refused_before_weights_are_read(tmp_path, changes, words):
    folder = copy_with(tmp_path, **changes)
    with pytest.raises(WeightsError, match=words):
        OpenSoraPlanModel.check_pretrained(folder)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((4, 8, 8), "makes videos of 5 latent frames, or images of 1, not of 4"), ((5, 7, 8), "7 x 8 cannot be cut")],
)
def test_latents_of_a_size_that_cannot_be_sampled_are_refused(shape, words):
    model = OpenSoraPlanModel.from_pretrained(PLAN, dtype=torch.float32)
    _, timestep, text = inputs(case("basic"))
    with pytest.raises(ValueError, match=words):
        model(torch.zeros(2, 4, *shape), timestep, text)
