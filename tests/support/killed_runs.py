"""Runs of the sampling command that are killed at random moments: python killed_runs.py FOLDER KILLS SEED ARGUMENT...

A process of its own, with everything imported, that forks a child per run: so a run begins at once, and the moments it
is killed at are spread over what it does. Prints as JSON how many kills hit, how long an uninterrupted run takes, and
the folders of all runs that came to their end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def fork_run(arguments: list[str]) -> int:
    """Start the command in a child; its process id."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        from scripts import inference

        code = 70
        try:
            code = inference.main(arguments)
        finally:
            os._exit(code)
    return child


def wait(child: int, seconds: float | None) -> int | None:
    """The exit code of a child; None if it was killed after ``seconds``."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG if deadline else 0)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    arguments = [*sys.argv[4:], "--verbose", "0"]
    import torch

    import opensora.models.text_encoder.prepared_text
    import opensora.pipeline  # noqa: F401

    torch.set_num_threads(1)
    for name in ("cold", "whole"):  # the first one fills the caches of text and files
        started = time.monotonic()
        assert wait(fork_run([*arguments, "--save-dir", str(folder / name)]), None) == 0
        duration = time.monotonic() - started
    moments = random.Random(seed)
    finished, hit, states = [], 0, []
    while hit < kills:
        target = folder / f"run_{len(finished)}"
        while True:
            allowed = moments.uniform(0.3, 1.0) * duration if hit < kills else None  # before, nothing is written
            code = wait(fork_run([*arguments, "--save-dir", str(target)]), allowed)
            if code is not None:
                assert code == 0, code
                break
            hit += 1
            manifest = target / "manifest.json"
            samples = json.loads(manifest.read_text())["samples"] if manifest.is_file() else {}
            states.append(sum(sample["status"] == "done" for sample in samples.values()))
        finished.append(str(target))
    print(json.dumps({"kills": hit, "seconds": duration, "finished": finished, "done_at_kill": states}))


if __name__ == "__main__":
    main()
