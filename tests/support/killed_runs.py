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
from collections.abc import Callable
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


def wait(child: int, is_time: Callable[[], bool] | None = None) -> int | None:
    """The exit code of a child; None if it was killed, as soon as ``is_time``."""
    while is_time is None or not is_time():
        done, status = os.waitpid(child, os.WNOHANG if is_time else 0)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def moment(numbers: random.Random, folder: Path, num_files: int, duration: float) -> Callable[[], bool]:
    """When to kill: some time after the start, or a little after some more of the files are there, finished or not."""
    if numbers.random() < 0.3:
        return after(numbers.uniform(0, duration))
    now = len(list(folder.glob("*"))) if folder.is_dir() else 0
    wanted = numbers.randint(now, max(now, num_files - 1)) + 1
    delay = numbers.uniform(0, 0.05)
    ready: list[Callable[[], bool]] = []

    def is_time() -> bool:
        if not ready and folder.is_dir() and len(os.listdir(folder)) >= wanted:
            ready.append(after(delay))
        return bool(ready) and ready[0]()

    return is_time


def after(seconds: float) -> Callable[[], bool]:
    """Whether ``seconds`` from now have passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    arguments = [*sys.argv[4:], "--verbose", "0"]

    import opensora.cli.run  # noqa: F401
    from opensora.cli.ledger import read_manifest
    from opensora.config.loading import load_config
    from opensora.load_models import check_models

    check_models(load_config(sys.argv[4], {}))  # makes torch and diffusers import what they put off

    for name in ("cold", "whole"):  # the first one fills the caches of text and files
        started = time.monotonic()
        assert wait(fork_run([*arguments, "--save-dir", str(folder / name)])) == 0
        duration = time.monotonic() - started
    numbers, num_files = random.Random(seed), len(os.listdir(folder / "whole"))
    finished, hit, states = [], 0, []
    while hit < kills:
        target = folder / f"run_{len(finished)}"
        while True:
            kill = moment(numbers, target, num_files, duration) if hit < kills else None
            code = wait(fork_run([*arguments, "--save-dir", str(target)]), kill)
            if code is not None:
                assert code == 0, code
                break
            hit += 1
            samples = read_manifest(target)["samples"] if (target / "manifest.json").is_file() else {}
            states.append(sum(sample["status"] == "done" for sample in samples.values()))
        finished.append(str(target))
    print(json.dumps({"kills": hit, "seconds": duration, "finished": finished, "done_at_kill": states}))


if __name__ == "__main__":
    main()
