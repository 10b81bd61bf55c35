"""The examples, run as they stand on tiny random pipelines: only loading, text and size are replaced."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import av
import pytest

from adacache.conformance.tiny import TINY
from adacache.trace import Trace

FOLDER = Path(__file__).resolve().parents[3] / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.stem in TINY)
# What a pipeline may be asked for beside a text.
MEDIA = {"image", "video"}
MOST_LINES = 10  # of an example, without its docstring, imports and blank lines


def test_every_family_that_goes_by_text_alone_has_one():
    assert {path.stem for path in EXAMPLES} == {name for name in TINY if not MEDIA & TINY[name].arguments().keys()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_makes_a_video_and_a_trace(path, tmp_path, monkeypatch, capsys):
    tiny = TINY[path.stem]
    pipe = tiny.build()
    asked: dict[str, Any] = {}
    plain_call = type(pipe).__call__

    def call_without_text(self: Any, prompt: str, **arguments: Any) -> Any:
        asked.update(arguments, prompt=prompt)
        own = tiny.arguments() | {"output_type": "np", "num_inference_steps": arguments["num_inference_steps"]}
        return plain_call(self, **{**arguments, **own})

    monkeypatch.setattr(type(pipe), "__call__", call_without_text)
    monkeypatch.setattr(type(pipe), "from_pretrained", lambda model, torch_dtype: pipe)
    monkeypatch.setattr("sys.argv", [str(path)])
    monkeypatch.syspath_prepend(FOLDER)  # as Python does with a script's folder
    monkeypatch.chdir(tmp_path)
    variables = runpy.run_path(str(path))
    assert asked["prompt"]
    trace = Trace.load(tmp_path / f"{path.stem}.trace.json")
    assert trace.num_steps == asked["num_inference_steps"]
    assert trace.computed_steps == variables["handle"].trace.computed_steps
    assert any(record.distance is not None for record in trace.records), "nothing was measured"
    assert str(trace.computed_steps) in capsys.readouterr().out
    with av.open(str(tmp_path / f"{path.stem}.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == len(variables["video"]) > 1
    assert frames[0].shape == (64, 64, 3)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path):
    code = path.read_text().split('"""')[2]
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= MOST_LINES
