"""The example for diffusers pipelines, with tiny random pipelines: only loading, text, size and steps are replaced."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import av
import diffusers
import pytest

from adacache.conformance.tiny import TINY
from adacache.trace import Trace

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/diffusers_video.py"
MODELS = runpy.run_path(str(EXAMPLE))["MODELS"]
# What a pipeline may be asked for beside a text.
MEDIA = {"image", "video"}


def run(*arguments: str) -> None:
    """Run the example as it is, but without entering an environment."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
        main()


def test_it_knows_every_family_that_goes_by_text_alone():
    texts = {name for name in TINY if not MEDIA & TINY[name].arguments().keys()}
    assert texts == {name for name, model in MODELS.items() if hasattr(diffusers, model["pipeline"])}


@pytest.mark.parametrize("name", [name for name in MODELS if name in TINY])
def test_it_makes_a_video_and_a_trace(name, tmp_path, monkeypatch, capsys):
    tiny = TINY[name]
    pipe, kind = tiny.build(), getattr(diffusers, MODELS[name]["pipeline"])
    steps = 3
    plain_call = kind.__call__
    asked: dict[str, Any] = {}

    def call_without_text(self: Any, prompt: str, **arguments: Any) -> Any:
        asked.update(arguments, prompt=prompt)
        return plain_call(self, **{**arguments, **tiny.arguments(steps=steps), "output_type": arguments["output_type"]})

    monkeypatch.setattr(kind, "__call__", call_without_text)
    monkeypatch.setattr(kind, "from_pretrained", lambda repository, torch_dtype: pipe)
    monkeypatch.chdir(tmp_path)
    run(name)
    assert asked["prompt"] and asked["num_inference_steps"] >= 16
    trace = Trace.load(tmp_path / f"{name}.trace.json")
    assert trace.num_steps == steps
    assert any(record.distance is not None for record in trace.records), "nothing was measured"
    assert str(trace.computed_steps) in capsys.readouterr().out
    with av.open(str(tmp_path / f"{name}.mp4")) as video:
        assert bool(video.streams.audio) == MODELS[name].get("sound", False)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) > 1
    assert frames[0].shape == (64, 64, 3)


def test_missing_weights_are_reported_in_a_sentence(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("latte", "--model", "/no/such/folder")
    assert capsys.readouterr().err.endswith("error: --model /no/such/folder is not a folder\n")
    monkeypatch.setitem(MODELS["latte"], "repository", "no/such-model")
    with pytest.raises(SystemExit, match=r"^error: .*; with a network .*give --model FOLDER$"):
        run("latte")
