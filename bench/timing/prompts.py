"""Time what the command does around the models in long runs: prompts, the ledger, the files of a sample."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.timing.models import CONFIG
from bench.timing.turns import Samples, seconds
from opensora.cli.command import prepare
from opensora.cli.plan import Sample
from opensora.cli.records import write_sample
from opensora.cli.session import Session, open_session

COUNTS = (100, 10_000, 100_000)
_MADE = 100  # samples of each run that are made


def measure_prompts(counts: tuple[int, ...] = COUNTS) -> dict[str, Any]:
    """Measure for each number of prompts: time until the first can be sampled, per sample, and to end; and memory."""
    return {f"{count} prompts": _measure(count) for count in counts}


def _measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.txt"
        file.write_text("".join(f"a red circle moving fast to the right, number {i}\n" for i in range(count)))
        before = psutil.Process().memory_info().rss
        begin = time.perf_counter()
        plan = prepare(str(CONFIG), {"prompt_path": str(file), "save_dir": folder, "num_frames": 1}, {})
        with open_session(plan) as session:
            session.begin([])
            due = plan.due_batches[:_MADE]
            started = time.perf_counter() - begin
            made = seconds(lambda: _make(session, due))
            memory = (psutil.Process().memory_info().rss - before) / 1e6
            ended = seconds(lambda: session.ledger.end_run("done"))
    return {
        "start_s": Samples((started,), "s"),
        "sample_ms": Samples((1000 * made / len(due),), "ms"),
        "end_s": Samples((ended,), "s"),
        "memory_MB": round(memory),
    }


def _make(session: Session, batches: Sequence[Sequence[Sample]]) -> None:
    """Enter samples and write their files, with gray images instead of the pipeline's."""
    frames = np.full((1, 64, 64, 3), 128, np.uint8)
    for [sample] in batches:
        session.start([sample])
        session.finish(sample, *write_sample(session.ledger.folder, sample, frames, [sample.text], [None], 1.0, {}))
