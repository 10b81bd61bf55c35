"""STDiT3 against the reference vectors, and what the cache's call sites must not change."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adacache import AdaCacheConfig, StepController
from opensora.errors import WeightsError
from opensora.models.layers.embeddings import select_tokens
from opensora.models.stdit import STDiT3, STDiT3Config
from support.reference_model import load_reference

CASES = ("plain", "odd_hw", "x_mask", "x_mask_odd_hw_b1", "x_mask_all_true", "image", "cfg_pair", "no_mask")


@pytest.fixture(scope="module")
def model(golden: Path) -> STDiT3:
    return load_reference(golden, "main")


@pytest.fixture(scope="module")
def inputs(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "stdit3/forward/inputs.safetensors")


def arguments(inputs: dict[str, torch.Tensor], case: str) -> dict[str, torch.Tensor]:
    return {key.split(".", 1)[1]: value for key, value in inputs.items() if key.startswith(f"{case}.")}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_forward_equals_the_reference(model, inputs, golden, case):
    expected = load_file(golden / "stdit3/forward/outputs.safetensors")[f"{case}.out"]
    assert (model(**arguments(inputs, case)) - expected).abs().max() <= 5e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@torch.no_grad()
def test_every_dtype_gives_a_finite_float32_output_near_the_reference(golden, inputs, dtype):
    model = STDiT3.from_pretrained(golden / "stdit3/model", dtype=dtype)
    expected = load_file(golden / "stdit3/forward/outputs.safetensors")["plain.out"]
    out = model(**arguments(inputs, "plain"))
    assert model.dtype == dtype
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() <= {torch.float32: 5e-5, torch.float16: 0.05, torch.bfloat16: 0.3}[dtype]


def test_full_size_model_matches_the_published_manifest(golden):
    manifest = json.loads((golden / "manifests/stdit3_xl2.json").read_text())["tensors"]
    with torch.device("meta"):
        model = STDiT3(STDiT3Config())
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == {
        name: shape for name, (shape, _, _) in manifest.items()
    }
    buffers = {name for name, _ in model.named_buffers()}
    assert buffers == {name for name, (_, _, kind) in manifest.items() if kind == "buffer"}


@pytest.mark.parametrize("case", ["cfg_pair", "x_mask"])
@torch.no_grad()
def test_a_computed_step_under_a_controller_is_bit_identical(model, inputs, case):
    kwargs = arguments(inputs, case)
    controller = StepController(AdaCacheConfig(metric_blocks=(1,)))
    with controller.run(3):
        controller.begin_step(0, 999.0)
        out = model(**kwargs, controller=controller)
    assert torch.equal(out, model(**kwargs))


@torch.no_grad()
def test_a_reused_step_runs_no_block(model, inputs):
    kwargs = arguments(inputs, "cfg_pair")
    calls = []
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in model.temporal_blocks]
    controller = StepController(
        AdaCacheConfig.from_dict({"codebook": {"thresholds": [], "rates": [3]}, "metric_blocks": [1]})
    )
    with controller.run(8):
        for step in range(4):
            controller.begin_step(step)
            model(**kwargs, controller=controller)
    for hook in hooks:
        hook.remove()
    assert controller.trace.computed_steps == [0, 1]
    assert len(calls) == 2 * len(model.temporal_blocks)


def test_tokens_are_left_aligned_and_cut_to_the_longest():
    y = torch.arange(8.0).view(2, 4, 1)
    selected, mask = select_tokens(y, torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]]))
    assert selected[0, :, 0].tolist() == [1, 3]
    assert selected[1, 0, 0].item() == 6
    assert mask.tolist() == [[True, True], [True, False]]


def test_rows_of_equal_length_need_no_mask():
    _, mask = select_tokens(torch.zeros(4, 3, 1), torch.tensor([[1, 1, 0], [1, 1, 0]]))
    assert mask is None


def test_a_caption_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no token"):
        select_tokens(torch.zeros(1, 3, 1), torch.zeros(1, 3))


def test_saved_model_loads_with_the_same_output(model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    again = STDiT3.from_pretrained(tmp_path / "copy")
    with torch.no_grad():
        assert torch.equal(again(**arguments(inputs, "image")), model(**arguments(inputs, "image")))


def test_a_sharded_checkpoint_loads(model, tmp_path):
    from safetensors.torch import save_file

    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(whole)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in halves.items():
        save_file({name: whole[name] for name in members}, tmp_path / file)
    index = {"weight_map": {name: file for file, members in halves.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    again = STDiT3.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], whole[name]) for name in names)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match="lacks 1 of 2 weight files: b.safetensors"):
        STDiT3.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_shape_is_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "caption_channels": 40}))
    with pytest.raises(WeightsError, match="y_embedder.* has shape .* its config.json asks for"):
        STDiT3.from_pretrained(tmp_path)


def test_a_checkpoint_with_other_keys_is_refused_by_name(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "depth": 4}))
    with pytest.raises(WeightsError, match="lacks spatial_blocks.3"):
        STDiT3.from_pretrained(tmp_path)


def test_a_truncated_checkpoint_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="corrupt or truncated"):
        STDiT3.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["cfg_pair", "odd_hw", "x_mask", "image"])
@torch.no_grad()
def test_every_block_gets_contiguous_hidden_states(golden, inputs, case, dtype):
    """Where layouts mix, every addition of a residual copies."""
    model = STDiT3.from_pretrained(golden / "stdit3/model", dtype=dtype)
    blocks = (*model.spatial_blocks, *model.temporal_blocks)
    layouts = []
    for block in blocks:
        block.register_forward_pre_hook(lambda _, given: layouts.append(given[0].is_contiguous()))
    model(**arguments(inputs, case))
    assert layouts == [True] * len(blocks)


@torch.no_grad()
def test_patches_are_embedded_as_by_the_convolution_that_the_checkpoint_holds(model):
    x = torch.randn(2, 4, 3, 6, 8)
    convolved = model.x_embedder.proj(x).flatten(3).permute(0, 2, 3, 1)
    torch.testing.assert_close(model.x_embedder(x), convolved, rtol=0, atol=1e-5)


@torch.no_grad()
def test_only_watched_blocks_show_their_branches(model, inputs):
    shown = []

    class Watching(StepController):
        def branch(self, site, compute):
            shown.append(str(site))
            return super().branch(site, compute)

    controller = Watching(AdaCacheConfig(metric_blocks=(1,)))
    with controller.run(3):
        controller.begin_step(0, 999.0)
        model(**arguments(inputs, "cfg_pair"), controller=controller)
    assert shown == [f"temporal block 1 {part}" for part in ("attn", "cross", "mlp")]


@torch.no_grad()
def test_the_input_of_the_blocks_is_freed_by_the_first_of_them(model, inputs, monkeypatch):
    alive, embed = [], type(model)._embed_patches

    def watched(self, *given):
        embedded = embed(self, *given)
        alive.append(weakref.ref(embedded))
        return embedded

    monkeypatch.setattr(type(model), "_embed_patches", watched)
    seen: list[bool] = []
    handle = model.temporal_blocks[-1].register_forward_pre_hook(lambda *_: seen.append(alive[0]() is not None))
    try:
        model(**arguments(inputs, "plain"))
    finally:
        handle.remove()
    assert seen == [False]
