"""The Bench tab, with the page of a bench, and the Machine tab, with the doctor's report."""

from __future__ import annotations

import subprocess
import sys
from html import escape
from pathlib import Path

import gradio as gr

from opensora.studio import parts
from opensora.studio.engine import environment
from opensora.studio.studio import Studio

TIMEOUT = 180  # seconds
LIMITS = (
    "The studio makes one video at a time, in one process on one device (CUDA where there is one). It shares no work "
    "among several GPUs: for that, use <code>NPROC=8 bash run_sample_video.sh</code> with the same output folder, and "
    "look at the results here."
)


class BenchTab:
    """Shows the page of a bench as it is on disk, in a frame that has no access to this page."""

    def __init__(self, studio: Studio) -> None:
        self._page: Path | None = studio.bench
        self.view = gr.HTML(elem_id="bench")
        self.inputs, self.outputs = [], [self.view]

    def refresh(self) -> list[str]:
        """Return the frame, or how to get one."""
        return [self._frame()]

    def _frame(self) -> str:
        if self._page is None:
            return parts.empty("Start the studio with --bench and the folder of a bench to read its page here.")
        try:
            text = self._page.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            return parts.problem(f"{self._page} cannot be read: {error}")
        return f'<iframe title="Bench" sandbox="allow-scripts" srcdoc="{escape(text)}"></iframe>'


class DoctorTab:
    """Shows the report of `opensora doctor`, and what the studio does not do."""

    def __init__(self, _studio: Studio) -> None:
        gr.HTML(f"<p>{LIMITS}</p>", elem_id="limits")
        self.button = gr.Button("Ask the doctor", elem_id="ask-doctor")
        self.view = gr.HTML(elem_id="doctor")
        self.button.click(self.ask, None, self.view, show_progress="minimal")
        self.inputs, self.outputs = [], []

    def refresh(self) -> list[str]:
        """Return nothing: the report is made on request."""
        return []

    @staticmethod
    def ask() -> str:
        """Run the doctor, which takes some seconds, and return its report."""
        command = [sys.executable, "-m", "opensora.doctor"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
        except (OSError, subprocess.TimeoutExpired) as error:
            return parts.problem(f"the doctor did not answer: {error}")
        return f"<pre>{escape(done.stdout or done.stderr)}</pre>"
