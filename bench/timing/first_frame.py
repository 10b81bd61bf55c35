"""From the start of a process to its first decoded frame: `python -m bench.timing.first_frame` is that process.

It does what `scripts/inference.py` does up to there, without an environment to set up and files to write. A clip is
decoded as a whole, so that its first frame is there when all are.
"""

from __future__ import annotations

import subprocess
import sys
import time

from opensora.files import REPO_ROOT

STAGES = ("imported", "loaded", "decoded")


def run_process() -> dict[str, float]:
    """Seconds from the start of a new process of this Python to each of the `STAGES`.

    Raises:
        RuntimeError: the process failed; with what it wrote.
    """
    # The parent keeps the time: clocks of two processes need not have one origin.
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench.timing.first_frame"]
    reached, other = {}, []
    with subprocess.Popen(
        command, cwd=REPO_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            stage = line.strip()
            if stage in STAGES:
                reached[stage] = time.perf_counter() - start
            else:
                other.append(line)
    if process.returncode or len(reached) < len(STAGES):
        raise RuntimeError(f"the process that decodes a first frame failed:\n{''.join(other)}")
    return reached


def main() -> None:
    """The process; tells each stage on a line of its own."""
    from bench.timing.mini_model import PROMPT, load_mini

    print("imported", flush=True)
    pipe = load_mini()
    print("loaded", flush=True)
    pipe([PROMPT], progress=False)
    print("decoded", flush=True)


if __name__ == "__main__":
    main()
