"""The process that samples for the studio: it keeps its models from job to job, and communicates in lines of JSON.

It reads `{"job": ID, "arguments": [...]}` and `{"cancel": ID}`, and ends when its input does. It writes events, each
with `event` and `job`: "phase" and "note" (a sentence in `text`), "step", and at the end of a job "done", "failed" or
"canceled".
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import torch
from PIL import Image
from torch import Tensor

from opensora.cli.arguments import parse_arguments
from opensora.cli.command import prepare
from opensora.cli.plan import Plan
from opensora.cli.run import run
from opensora.cli.session import open_session
from opensora.cli.text_stage import PreparedText
from opensora.config.schema import SampleConfig
from opensora.datasets.video_io import to_uint8
from opensora.device import release_memory
from opensora.errors import ConfigError, message_for_the_user
from opensora.pipeline import SamplingPipeline
from opensora.registry import SCHEDULERS, build_module
from opensora.schedulers.steps import StepDone
from opensora.weights import fingerprint

SMALL_AUTOENCODER = 20_000_000  # parameters; a larger one is not run for previews
PREVIEW_SECONDS = 0.3  # least time between two previews
PREVIEW_SIDE = 256  # pixels

Say = Callable[[Mapping[str, Any]], None]


class Models:
    """Makes pipelines, and keeps the models of the last one for the next."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._kept: tuple[Any, SamplingPipeline] | None = None

    def __call__(self, config: SampleConfig, text: PreparedText, group: None = None) -> SamplingPipeline:
        """Return the pipeline of a config with local folders; its steps are reported to `progress`."""
        # The weights, too: those in a folder may have been replaced since the last job.
        weights = [fingerprint(section.from_pretrained) for section in (config.model, config.vae)]
        wanted = (config.model, config.vae, weights, config.dtype, config.device, config.compile)
        if self._kept is None or self._kept[0] != wanted:
            self.release()
            self._kept = wanted, SamplingPipeline.from_config(config, text)
        models, scheduler = self._kept[1], build_module(vars(config.scheduler), SCHEDULERS)
        self._progress.begin(models, config)
        return SamplingPipeline(
            models.model, models.vae, text, scheduler, config, config.cache, on_step=self._progress.end_step
        )

    def release(self) -> bool:
        """Free the models, and return whether there were any."""
        kept, self._kept = self._kept, None
        if kept is None:
            return False
        device = kept[1].model.device
        del kept
        self._progress.end()
        release_memory(device)
        return True


class Progress:
    """Reports every step, from time to time with a preview of the video, and ends a run that was canceled.

    Attributes:
        canceled: set from outside to end the current job.
    """

    def __init__(self, say: Say) -> None:
        self.canceled = threading.Event()
        self._say = say
        self.end()

    def begin(self, pipe: SamplingPipeline, config: SampleConfig) -> None:
        """Prepare for the steps of a pipeline."""
        self._pipe, self._is_flow = pipe, config.scheduler.type == "rflow"
        self._is_small = sum(weight.numel() for weight in pipe.vae.parameters()) < SMALL_AUTOENCODER

    def end(self) -> None:
        """Forget the pipeline and its latents."""
        self._pipe: SamplingPipeline | None = None
        self._before: list[tuple[float, Tensor]] = []  # when the last two steps began, and the latents after them
        self._num_computed = 0
        self._last_preview = 0.0

    def end_step(self, step: StepDone) -> None:
        """Report a step that has ended.

        Raises:
            KeyboardInterrupt: the job was canceled.
        """
        if self.canceled.is_set():
            raise KeyboardInterrupt
        count = step.index + 1 if step.num_computed is None else step.num_computed[0]
        was_computed = count > (self._num_computed if step.index else 0)
        self._num_computed = count
        told = {"event": "step", "index": step.index, "num_steps": step.num_steps, "computed": was_computed}
        latents, is_last = self._clean(step), step.index + 1 == step.num_steps
        if is_last or time.monotonic() - self._last_preview > PREVIEW_SECONDS:
            told |= {"preview": _picture(self._frame(latents)), "decoded": self._is_small}
            self._last_preview = time.monotonic()
        self._say(told)

    def _clean(self, step: StepDone) -> Tensor:
        """Estimate the first video's clean latents (C, T, H, W): those at the end of a flow that goes straight on.

        Its direction is that of the step before, whose begin and end times are both known.
        """
        if not step.index:
            self._before = []
        past, latents = self._before, step.latents[0].to(torch.float32, copy=True)
        self._before = [*past[-1:], (step.timestep, latents)]
        if not self._is_flow or len(past) < 2 or step.index + 1 == step.num_steps:
            return latents
        (_, start), (time_before, end) = past  # this step began with `end`
        return end + (end - start) * step.timestep / max(time_before - step.timestep, 1e-6)

    def _frame(self, latents: Tensor) -> Tensor:
        """Return the middle frame (3, H, W) in [-1, 1], decoded alone by a small autoencoder, or latents as colors."""
        middle = latents[:, latents.shape[1] // 2 :][:, :1]
        if self._is_small:
            pipe = self._pipe
            with torch.no_grad():
                chunk = next(iter(pipe.vae.decode_chunks(middle[None].to(pipe.model.dtype), 1, False)))
            return chunk[0, :, 0].float().clamp(-1, 1).cpu()
        return _colors(middle[:, 0].cpu())


def _colors(latents: Tensor) -> Tensor:
    """Return latents (C, H, W) as colors (3, H, W) in [-1, 1], along the three directions in which they differ most."""
    flat = latents.nan_to_num().flatten(1).T  # NaN is for the sampler to report
    flat = flat - flat.mean(0)
    directions = torch.linalg.svd(flat, full_matrices=False).Vh[:3]
    directions = directions * directions.sum(1, keepdim=True).sign()  # else colors could flip from step to step
    colors = flat @ directions.T
    colors = colors / colors.abs().amax(0).clamp_min(1e-6)
    return colors.T.reshape(-1, *latents.shape[1:])


def _picture(frame: Tensor) -> str:
    """Return a frame (3, H, W) in [-1, 1] as a data URI."""
    picture = Image.fromarray(to_uint8(frame[:, None])[0])
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    file = io.BytesIO()
    picture.save(file, "webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


class LogEvents(logging.Handler):
    """Sends the sampler's log messages as events: warnings as notes, the others as phases."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        text = record.getMessage().removeprefix("WARNING ")
        self._say({"event": "note" if record.levelno >= logging.WARNING else "phase", "text": text})


def make(arguments: list[str], models: Models) -> dict[str, Any]:
    """Do what the sampling command does with these arguments, and return the job's last event.

    Raises:
        KeyboardInterrupt: the job was canceled.
    """
    try:
        plan = _plan(arguments)
        try:
            return _make(plan, arguments, models)
        except ConfigError:
            if not models.release():  # the kept models may have taken the memory that was missing
                raise
        return _make(_plan(arguments), arguments, models)
    except SystemExit:
        return {"event": "failed", "text": "the sampling command cannot read its arguments"}
    except Exception as error:
        message = message_for_the_user(error)
        if message is None:
            traceback.print_exc()
            message = f"a bug: {type(error).__name__}: {error}; the worker's log has its trace"
        return {"event": "failed", "text": message}


def _plan(arguments: list[str]) -> Plan:
    path, flags, options = parse_arguments(arguments)
    flags.pop("words")
    return prepare(path, flags, options)


def _make(plan: Plan, arguments: list[str], models: Models) -> dict[str, Any]:
    with open_session(plan) as session:
        if plan.due_batches or session.failed:
            run(session, arguments, models)
        session.report(arguments)
    folder = str(plan.folder.resolve())
    if not session.finished:
        return {"event": "failed", "text": session.failed[0].problem, "folder": folder}
    problems = [f"{sample.stem}: {sample.problem}" for sample in session.failed]
    return {"event": "done", "folder": folder, "problems": problems}


def serve(lines: Iterator[str], output: IO[str]) -> None:
    """Run the jobs of `lines` one after the other; the process ends with `lines`."""
    present: dict[str, str] = {}
    canceled: set[str] = set()
    writing = threading.Lock()

    def say(event: Mapping[str, Any]) -> None:
        with writing:
            output.write(json.dumps({**event, **present}) + "\n")
            output.flush()

    progress, jobs = Progress(say), queue.Queue()

    def read() -> None:
        for line in lines:
            message = json.loads(line)
            if "arguments" in message:
                jobs.put(message)
            else:
                canceled.add(message["cancel"])
                if message["cancel"] == present.get("job"):
                    progress.canceled.set()
        os._exit(0)  # the studio is gone; the ledger copes with a job that ends as if it were killed

    logger = logging.getLogger("opensora")
    logger.setLevel(logging.INFO)
    logger.addHandler(LogEvents(say))
    models, num_threads = Models(progress), torch.get_num_threads()
    threading.Thread(target=read, daemon=True).start()
    while True:
        message = jobs.get()
        progress.canceled.clear()
        torch.set_num_threads(num_threads)  # a job with a small model limits them
        present["job"] = message["job"]
        if message["job"] in canceled:
            progress.canceled.set()
        say({"event": "phase", "text": "reading the config"})
        try:
            event = make(message["arguments"], models)
        except KeyboardInterrupt:
            event = {"event": "canceled"}
        say(event)


def main() -> None:
    """Serve on standard input and output; everything else that is printed goes to standard error."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, output)


if __name__ == "__main__":
    main()
