"""A video depends on its own prompt, seed and settings: not on its neighbors, their order, or how many go together."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from scripts import inference
from support import small_model

MINI = str(Path(__file__).resolve().parents[3] / small_model.ADACACHE)
COMMAND = [MINI, "--num-sampling-steps", "6", "--image-size", "32", "32", "--save-frames", "--verbose", "0"]
LINES = [
    {"prompt": "a red circle moving fast to the right", "seed": 5, "name": "first"},
    {"prompt": "a still blue square", "seed": 6, "name": "second"},
    {"prompt": "a growing white star", "seed": 7, "name": "third"},
]


def sample(folder: Path, lines: list[dict], *arguments: str) -> Path:
    """Sample the lines of a prompt file with few steps."""
    folder.mkdir()
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert inference.main([*COMMAND, "--prompt-path", str(path), "--save-dir", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> Path:
    return sample(tmp_path_factory.mktemp("independence") / "usual", LINES)


def test_order_and_neighbors_change_no_byte(usual, tmp_path):
    turned = sample(tmp_path / "turned", LINES[::-1])
    alone = sample(tmp_path / "alone", LINES[1:2])
    for name in ("first.mp4", "second.mp4", "second.frames.npz", "third.mp4"):
        assert (turned / name).read_bytes() == (usual / name).read_bytes()
    for name in ("second.mp4", "second.frames.npz"):
        assert (alone / name).read_bytes() == (usual / name).read_bytes()


def test_the_size_of_a_batch_changes_rounding_only(usual, tmp_path):
    together = sample(tmp_path / "together", LINES, "--batch-size", "3")
    for line in LINES:
        one, other = (np.load(folder / f"{line['name']}.frames.npz")["frames"] for folder in (usual, together))
        assert np.abs(one.astype(int) - other).max() <= 1
        first, second = (json.loads((folder / f"{line['name']}.json").read_text()) for folder in (usual, together))
        assert first["computed_steps"] == second["computed_steps"]


def test_a_prompt_is_refined_once_and_stays_so(tmp_path):
    """What the language model answered counts in a continued run and in one from the sidecar."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = f"a red circle moving slowly up, answer {len(asked)}"
            body = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = ["--llm-refine", "--llm-endpoint", f"http://127.0.0.1:{server.server_port}/v1", "--llm-model", "any"]
    try:
        folder = sample(tmp_path / "out", LINES[:1], *endpoint)
        video = (folder / "first.mp4").read_bytes()
        about = json.loads((folder / "first.json").read_text())["metadata"]
        assert about["prompt"] == LINES[0]["prompt"] and about["refined"].endswith("answer 1")
        assert about["captions"] == ["a red circle moving slowly up, answer 1"]
        (folder / "first.mp4").unlink()
        (folder / "prompts.jsonl").unlink()
        again = [*COMMAND, "--save-dir", str(folder)]
        lines = tmp_path / "again.jsonl"
        lines.write_text(json.dumps(LINES[0]))
        assert inference.main([*again, "--prompt-path", str(lines), *endpoint]) == 0
        assert (folder / "first.mp4").read_bytes() == video
        assert len(asked) == 1
    finally:
        server.shutdown()
    assert inference.main(["--from-sidecar", str(folder / "first.json")]) == 0
    assert (folder / "reproduced/first.mp4").read_bytes() == video
