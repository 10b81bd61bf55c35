"""A run that is killed while its thread writes a video and the next one is sampled, and goes on: FOLDER ARGUMENT...

``whole`` in the folder is of a run that was left in peace, ``killed`` of the other one, whose second video was cut in
the middle. Prints as JSON what was there when it was killed: the samples' status, and files that were not finished.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    folder, arguments = Path(sys.argv[1]), [*sys.argv[2:], "--verbose", "0", "--save-dir"]
    from diffusers import AutoencoderKL  # noqa: F401
    from transformers import T5EncoderModel  # noqa: F401

    from opensora.cli.ledger import read_manifest
    from opensora.cli.worker import Worker
    from opensora.datasets import video_io
    from tests.support.killed_runs import fork_run

    write, sample, third = video_io._write_mp4, Worker.sample, threading.Event()

    def write_half(path, frames, rate, crf):
        write(path, frames, rate, crf)
        if path.name.startswith(".sample_0001."):
            os.truncate(path, path.stat().st_size // 2)
            if third.wait(60):
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(71)  # the third video was not sampled meanwhile

    def sample_and_tell(worker, batch):
        if batch[0].stem == "sample_0002":
            third.set()
        return sample(worker, batch)

    assert fork_run([*arguments, str(folder / "whole")]) == 0
    video_io._write_mp4, Worker.sample = write_half, sample_and_tell
    code = fork_run([*arguments, str(folder / "killed")])
    assert code == -signal.SIGKILL, code
    samples = read_manifest(folder / "killed")["samples"]
    report = {
        "status": {stem: sample["status"] for stem, sample in samples.items()},
        "unfinished": [path.name for path in (folder / "killed").glob(".*.tmp")],
    }
    video_io._write_mp4, Worker.sample = write, sample
    assert fork_run([*arguments, str(folder / "killed")]) == 0
    print(json.dumps(report))


if __name__ == "__main__":
    main()
