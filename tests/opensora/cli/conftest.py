"""A run of the sampling command with a pipeline that answers at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adacache.trace import StepRecord, Trace
from opensora.cli import command, worker
from opensora.cli import session as sessions
from opensora.cli.run import run as run_session
from support import small_model

ROOT = Path(__file__).resolve().parents[3]


class FakePipeline:
    """Answers every call with gray videos and a trace that computed steps 0, 1 and 29; fails as ``errors`` say.

    Args:
        begun: told the prompts of each call before it fails or not.
    """

    def __init__(self, config, errors: dict[str, BaseException], begun: Callable[[Sequence[str]], None]):
        self.config = config
        self.errors = errors
        self.begun = begun
        self.calls: list[tuple[list[str], list[int]]] = []
        self.model = SimpleNamespace(parameters=list, device=SimpleNamespace(type="cpu"))
        self.group = None

    def with_config(self, config):
        self.config = config
        return self

    def encode_reference(self, frames, generator):
        return None

    def __call__(self, prompts, seed, references=None, mask_strategies=None, meter=None, progress=None):
        self.begun(prompts)
        for prompt in prompts:
            if prompt in self.errors:
                raise self.errors[prompt]
        self.calls.append((prompts, seed))
        records = [StepRecord(i, 1000 - i, i in (0, 1, 29), milliseconds=10.0) for i in range(30)]
        trace = Trace(30, records) if self.config.cache else None
        frame_count = self.config.num_frames
        videos = [np.full((frame_count, 64, 64, 3), 9, np.uint8) for _ in prompts]
        later = [[trace] * len(prompts)] * (self.config.loop - 1)
        return SimpleNamespace(videos=videos, traces=[trace] * len(prompts), later_traces=later, seconds=6.0)


@dataclasses.dataclass
class Run:
    """One run of the command's steps: what became of it."""

    samples: list
    calls: list
    folder: Path
    failed: dict
    error: BaseException | None
    config: object

    @property
    def results(self) -> list:
        return [sample.result for sample in self.samples]

    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))

    def statuses(self) -> dict[str, str]:
        return {stem: entry["status"] for stem, entry in self.manifest()["samples"].items()}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a config of the small model with the fake pipeline."""

    def run_config(
        name: str = "sample",
        errors: dict | None = None,
        config: str | None = None,
        begun: Callable[[Sequence[str]], None] = lambda prompts: None,
        **flags,
    ) -> Run:
        flags = {"prompt": ["a", "b", "c"], "save_dir": str(tmp_path / "out"), **flags}
        pipe = None

        def from_config(config, text_encoder, group):
            nonlocal pipe
            pipe = FakePipeline(config, errors or {}, begun)
            return pipe

        monkeypatch.setattr(worker, "SamplingPipeline", SimpleNamespace(from_config=from_config))
        for slow in ("encode_captions", "check_memory"):
            monkeypatch.setattr(worker, slow, lambda *arguments, **options: None)
        plan = command.prepare(config or str(ROOT / f"{small_model.FOLDER}/{name}.py"), flags, {})
        error = None
        with sessions.open_session(plan) as session:
            try:
                if plan.due_batches or session.failed:
                    run_session(session, ["--test"])
            except BaseException as caught:
                error = caught
        failed = {sample.stem: sample.problem for sample in session.failed}
        calls = pipe.calls if pipe else []
        return Run(session.finished, calls, session.ledger.folder, failed, error, plan.config)

    return run_config
