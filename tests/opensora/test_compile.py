"""torch.compile of blocks and branches: few graphs, the same decisions, and a refusal where it cannot be used."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters
from torch.torch_version import TorchVersion

from adacache import AdaCacheConfig, StepController
from opensora.cli.arguments import parse_arguments
from opensora.config.loading import load_config
from opensora.device import RECOMPILE_LIMIT, check_compiler, compile_function
from opensora.errors import ConfigError
from opensora.models.stdit import STDiT3
from opensora.models.stdit.blocks import EAGER
from opensora.pipeline import SamplingPipeline
from opensora.schedulers.rf import RFLOW
from support import small_model
from support.reference_model import StoredText, load_reference, stored_size

MINI = Path(__file__).parents[2] / small_model.ADACACHE
GRAPHS = 2  # spatial block, temporal block
WATCHED_GRAPHS = 3  # of a block whose branches are measured: attention, cross-attention, MLP


class CountingBackend:
    """Runs graphs as they are, without generating code, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def clean_compiler() -> Iterator[None]:
    """No sizes or counts remembered from another test, and no gradients, as in sampling."""
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def trajectory_inputs(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "adacache/inputs.safetensors")


@pytest.fixture(scope="module")
def plain_inputs(golden: Path) -> dict[str, Tensor]:
    """One forward pass of two rows whose texts differ in length, so that there is a text mask."""
    stored = load_file(golden / "stdit3/forward/inputs.safetensors")
    return {name.removeprefix("plain."): value for name, value in stored.items() if name.startswith("plain.")}


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in json.loads((golden / "adacache/cases.json").read_text())}


def sample(model: STDiT3, case: dict[str, Any], inputs: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
    """Final latents and computed steps of one golden case."""
    group = case["inputs"]
    controller = StepController(AdaCacheConfig.from_dict(case["config"]))
    scheduler = RFLOW(case["steps"], cfg_scale=case["cfg_scale"], use_timestep_transform=True)
    latents = scheduler.sample(
        model,
        StoredText(inputs, group),
        inputs[f"{group}.z"],
        [""],
        "cpu",
        stored_size(inputs, group),
        inputs.get(f"{group}.z_mask"),
        progress=False,
        controller=controller,
    )
    return latents, controller.trace.computed_steps


def rows(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The pass with its rows repeated to a batch of ``count``."""
    return {name: value.repeat(count // 2, *[1] * (value.dim() - 1)) for name, value in inputs.items()}


def compiled_reference(golden: Path, name: str, backend: Any) -> STDiT3:
    model = load_reference(golden, name)
    model.compile_blocks(backend)
    return model


@pytest.mark.parametrize(("name", "case"), [("main", "t-attn_slow30_loc1"), ("100", "t-attn_step100_loc1")])
def test_a_run_has_five_graphs_whatever_the_depth_and_decides_as_ever(golden, cases, trajectory_inputs, name, case):
    backend = CountingBackend()
    model = compiled_reference(golden, name, backend)
    latents, computed = sample(model, cases[case], trajectory_inputs)
    expected, expected_computed = sample(load_reference(golden, name), cases[case], trajectory_inputs)
    assert backend.graphs == GRAPHS + WATCHED_GRAPHS
    assert not counters["graph_break"]
    assert computed == expected_computed
    assert torch.equal(latents, expected)


def test_graphs_do_not_multiply_with_batch_sizes_and_text_lengths(golden, plain_inputs):
    backend = CountingBackend()
    model = compiled_reference(golden, "main", backend)
    eager = load_reference(golden, "main")
    for count, length in ((6, 12), (2, 9)):
        inputs = rows(plain_inputs, count)
        inputs = {**inputs, "y": inputs["y"][:, :, :length], "mask": inputs["mask"][:, :length]}
        assert torch.equal(model(**inputs), eager(**inputs))
        assert torch.equal(model(**{**inputs, "mask": None}), eager(**{**inputs, "mask": None}))
    # Sizes fixed and open, with and without a text mask; PyTorch 2.6 tells more sizes apart.
    assert backend.graphs <= (6 if torch.__version__ >= TorchVersion("2.9") else 10) * GRAPHS
    seen = backend.graphs
    for count in (8, 2):
        model(**rows(plain_inputs, count))
    assert backend.graphs == seen
    assert not counters["graph_break"]


def test_another_model_has_graphs_of_its_own(golden, plain_inputs):
    backends = CountingBackend(), CountingBackend()
    for backend in backends:
        compiled_reference(golden, "main", backend)(**plain_inputs)
    assert [backend.graphs for backend in backends] == [GRAPHS, GRAPHS]


def test_generated_code_gives_the_eager_results(golden, plain_inputs):
    try:
        check_compiler(torch.device("cpu"))
    except ConfigError as error:
        pytest.skip(str(error))
    eager, model = load_reference(golden, "main"), compiled_reference(golden, "main", "inductor")
    torch.testing.assert_close(model(**plain_inputs), eager(**plain_inputs), rtol=0, atol=2e-5)


def test_compiling_keeps_the_state_dict_and_is_not_done_unasked(golden):
    model = load_reference(golden, "main")
    names = list(model.state_dict())
    assert all(block.functions is EAGER for block in (*model.spatial_blocks, *model.temporal_blocks))
    model.compile_blocks()
    assert list(model.state_dict()) == names
    assert len({block.functions for block in (*model.spatial_blocks, *model.temporal_blocks)}) == 1
    assert load_reference(golden, "main").spatial_blocks[0].functions is EAGER


@pytest.mark.parametrize("compiled", [False, True])
def test_the_pipeline_compiles_when_the_config_says_so(monkeypatch, compiled):
    monkeypatch.setattr("opensora.load_models.check_compiler", lambda _: None)
    pipe = SamplingPipeline.from_config(load_config(MINI, {"compile": compiled}))
    assert (pipe.model.temporal_blocks[0].functions is EAGER) != compiled


def test_the_switch_is_read_from_file_and_command_line(tmp_path):
    assert load_config(MINI).compile is False
    file = tmp_path / "compiled.py"
    file.write_text(f'_base_ = "{MINI}"\ncompile = True\n')
    assert load_config(file).compile is True
    for arguments, expected in ((["--compile"], True), (["--compile", "False"], False), ([], True)):
        _, flags, _ = parse_arguments([str(file), *arguments])
        assert load_config(file, flags).compile is expected
    with pytest.raises(ConfigError, match="compile must be True or False, got 'max'"):
        load_config(MINI, None, {"compile": "max"})


def test_without_a_compiler_the_run_is_refused_before_models_are_loaded(monkeypatch):
    from torch._inductor import config as inductor

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("opensora.pipeline.build_module", load)
    config = load_config(MINI, {"compile": True, "device": "cpu"})
    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(ConfigError, match=r"compile=True cannot be used on cpu: there is no C\+\+ compiler"),
    ):
        SamplingPipeline.from_config(config)


def test_other_missing_parts_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ConfigError, match="cuda: the package triton cannot be imported"):
        check_compiler(torch.device("cuda"))
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/no/such/folder")
    with pytest.raises(ConfigError, match="cpu: there are no C headers of Python"):
        check_compiler(torch.device("cpu"))


@pytest.mark.parametrize(
    ("compiler", "there", "problem"),
    [
        (None, ["gcc"], None),
        (None, ["clang"], None),
        (None, [], "there is no C compiler"),
        ("/opt/cc", ["/opt/cc"], None),
        ("/opt/cc", ["gcc"], "there is no C compiler"),
    ],
)
def test_without_a_c_compiler_nothing_is_compiled_for_a_gpu(compiler, there, problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    monkeypatch.setattr(os, "environ", {} if compiler is None else {"CC": compiler})
    expected = nullcontext() if problem is None else pytest.raises(ConfigError, match=f"on cuda: {problem}")
    with expected:
        check_compiler(torch.device("cuda"))


def test_an_older_pytorch_is_given_the_limit_by_its_settings(monkeypatch):
    seen = []

    def compile_of_2_6(function, *, fullgraph, dynamic, backend):
        def run(value):
            seen.append((fullgraph, dynamic, backend, getattr(settings, limit)))
            return function(value)

        return run

    settings = torch._dynamo.config
    limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    before = getattr(settings, limit)
    monkeypatch.setattr(torch, "compile", compile_of_2_6)
    assert compile_function(lambda value: value + 1, "some backend")(1) == 2
    assert seen == [(True, None, "some backend", RECOMPILE_LIMIT)]
    assert getattr(settings, limit) == before
