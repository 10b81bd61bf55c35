"""Runs of the sampling command that are killed at random moments: python killed_runs.py FOLDER KILLS SEED ARGUMENT...

A process of its own, with everything imported, that forks a child per run. A child kills itself when it has touched
some number of files, so the moments are spread over what a run does, however busy the machine is. Prints as JSON how
many kills hit, the folders of all runs that came to their end, and how many samples were done at each kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import Value
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove")  # audit events of Python, whose first argument is a path


def fork_run(arguments: list[str], touched: Callable[[], None] | None = None) -> int:
    """Run the command in a child; its exit code, negative for a signal.

    ``touched`` is called in the child whenever it opens, renames or removes a file of its folder, the last argument.
    """
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        from scripts import inference

        def notice(event, about):
            if event in TOUCHES and arguments[-1] in str(about[0]):
                touched()

        if touched is not None:
            sys.addaudithook(notice)
        code = 70
        try:
            code = inference.main(arguments)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_after(touches: int, delay: float) -> Callable[[], None]:
    """What kills the process that calls it, some seconds after it was called so many times."""
    left = iter(range(touches - 1, -1, -1))

    def touched() -> None:
        if next(left, None) == 0:
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    return touched


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    arguments = [*sys.argv[4:], "--verbose", "0", "--save-dir"]

    import opensora.cli.run  # noqa: F401
    from opensora.cli.ledger import read_manifest
    from opensora.config.loading import load_config
    from opensora.load_models import check_models

    check_models(load_config(sys.argv[4], {}))  # makes torch and diffusers import what they put off

    total = Value("i", 0)

    def count() -> None:
        total.value += 1

    assert fork_run([*arguments, str(folder / "whole")], count) == 0
    numbers, finished, states = random.Random(seed), [], []
    while len(states) < kills:
        target = folder / f"run_{len(finished)}"
        share = (len(states) + numbers.random()) / kills  # of a whole run, so later ones are killed later
        delay = numbers.uniform(0, 0.05) if len(states) % 2 else 0.0
        code = fork_run([*arguments, str(target)], kill_after(1 + int(share * total.value), delay))
        if code == -signal.SIGKILL:
            samples = read_manifest(target)["samples"] if (target / "manifest.json").is_file() else {}
            states.append(sum(sample["status"] == "done" for sample in samples.values()))
        else:  # it had less to do than a whole run
            assert code == 0, code
            finished.append(str(target))
    target = folder / f"run_{len(finished)}"
    assert fork_run([*arguments, str(target)]) == 0
    print(json.dumps({"finished": [*finished, str(target)], "done_at_kill": states}))


if __name__ == "__main__":
    main()
