"""The Sample tab, with the form for a prompt, and the queue beside it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from opensora.studio import parts
from opensora.studio.choices import OUTCOMES, Model, Variant, Wish, expectation
from opensora.studio.studio import Studio

# Turns clicks into events, and plays videos while the mouse is over them.
ACT = """for (const [name, act] of [["mouseover", "play"], ["mouseout", "pause"]])
  element.addEventListener(name, (event) => {
    const video = event.target;
    if (video.tagName === "VIDEO" && !video.autoplay) Promise.resolve(video[act]()).catch(() => {});
  });
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) trigger("act", { ...button.dataset });
});"""
DEFAULTS = {"max_steps_computed": 12.0, "speedup": 2.0, "min_psnr": 45.0}
SHOWN_JOBS = 8
MAX_SEED = 2**31 - 1
MAX_DRAFTS = 16


class Form:
    """The fields that say what to sample; their values become a wish."""

    def __init__(self, studio: Studio, first: str) -> None:
        self._studio = studio
        model = studio.models[0]
        names = [m.name for m in studio.models]
        self.prompt = gr.Textbox(
            label="Prompt", placeholder="What the video shows", lines=2, max_lines=5, elem_id="prompt"
        )
        self.words = gr.HTML(self._words(model), js_on_load=ACT, elem_id="words")
        self.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model", visible=len(names) > 1)
        start = model.variant(first)
        self.variant = gr.Radio(
            [v.label for v in model.variants], value=start.label, label="Compute", elem_id="variant"
        )
        with gr.Group(visible=start.calibration is not None, elem_id="outcome") as self.outcome:
            self.kind = gr.Radio(
                [(text, kind) for kind, text in OUTCOMES.items()], value="max_steps_computed", label="Ask for"
            )
            steps = value_range(start, "max_steps_computed")
            self.value = gr.Slider(
                **steps, value=DEFAULTS["max_steps_computed"], label="Computed steps", elem_id="target"
            )
            self.curve = gr.HTML(curve(start, "max_steps_computed", 12), elem_id="curve", padding=True)
        with gr.Row():
            self.size = gr.Dropdown(
                model.sizes, value=model.sizes[0], label="Size (H x W)", min_width=120, elem_id="size"
            )
            self.length = gr.Dropdown(
                model.lengths, value=model.lengths[0], label="Frames", min_width=90, elem_id="length"
            )
            self.seed = gr.Number(
                model.config.seed, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=90, elem_id="seed"
            )
        self._connect()

    @property
    def fields(self) -> list[Any]:
        """The components whose values `wish` takes."""
        return [self.prompt, self.model, self.variant, self.kind, self.value, self.size, self.length, self.seed]

    def wish(self, *values: Any, **more: Any) -> Wish:
        """Return the values of `fields` as a wish."""
        prompt, model, variant, kind, value, size, length, seed = values
        chosen = self.find(model)
        way = chosen.variant(variant)
        outcome = None if way.calibration is None else (kind, value)
        number = None if seed is None else int(seed)
        return Wish(prompt or "", chosen, way, outcome, size or "", str(length or ""), number, **more)

    def find(self, name: str) -> Model:
        """Return the model with this name, or the first one if there is none."""
        return next((model for model in self._studio.models if model.name == name), self._studio.models[0])

    def _connect(self) -> None:
        self.words.act(self._add, self.prompt, self.prompt, **parts.QUIET)
        self.model.change(
            self._change_model, self.model, [self.words, self.variant, self.size, self.length, self.seed], **parts.QUIET
        )
        curve = [self.outcome, self.curve]
        chosen = [self.model, self.variant, self.kind, self.value]
        self.variant.change(self._change_variant, chosen, [self.value, *curve], **parts.QUIET)
        self.kind.change(self._change_kind, chosen[:3], self.value, **parts.QUIET)
        self.value.change(self._show_outcome, chosen, curve, **parts.QUIET)

    @staticmethod
    def _words(model: Model) -> str:
        return parts.words(model.knows.words, model.knows.examples[:4]) if model.knows else ""

    @staticmethod
    def _add(prompt: str, event: gr.EventData) -> str:
        text = str(event._data.get("text", ""))
        return text if event._data.get("act") == "example" else f"{prompt or ''} {text}".strip()

    def _change_model(self, name: str) -> list[Any]:
        model = self.find(name)
        labels = [variant.label for variant in model.variants]
        return [
            self._words(model),
            gr.update(choices=labels, value=labels[0]),
            gr.update(choices=model.sizes, value=model.sizes[0]),
            gr.update(choices=model.lengths, value=model.lengths[0]),
            model.config.seed,
        ]

    def _change_kind(self, model: str, variant: str, kind: str) -> Any:
        return self._slider(model, variant, kind, DEFAULTS[kind])

    def _change_variant(self, model: str, variant: str, kind: str, value: float) -> list[Any]:
        slider = self._slider(model, variant, kind, value)
        return [slider, *self._show_outcome(model, variant, kind, slider["value"])]

    def _slider(self, model: str, variant: str, kind: str, value: float) -> dict[str, Any]:
        limits = value_range(self.find(model).variant(variant), kind)
        value = min(max(value, limits["minimum"]), limits["maximum"])
        return gr.update(**limits, value=value, label=OUTCOMES[kind])

    def _show_outcome(self, model: str, variant: str, kind: str, value: float) -> list[Any]:
        way = self.find(model).variant(variant)
        return [gr.update(visible=way.calibration is not None), curve(way, kind, value)]


def value_range(way: Variant, kind: str) -> dict[str, float]:
    """Return the range of an outcome's slider: `minimum`, `maximum` and `step`."""
    low, high, step = 2, 30, 1
    if way.calibration is not None:
        total, measured = way.calibration.num_steps, [point.psnr for point in way.calibration.measured]
        low, high, step = {
            "max_steps_computed": (2, total, 1),
            "speedup": (1, round(way.calibration.speedup(4, total), 1), 0.1),
            "min_psnr": (round(min(measured)), math.floor(max(measured)), 1),
        }[kind]
    return {"minimum": low, "maximum": high, "step": step}


def curve(way: Variant, kind: str, value: float) -> str:
    """Return a chart of calibrated quality over computed steps, with the chosen point and what to expect in words."""
    if way.calibration is None:
        return ""
    calibration = way.calibration
    try:
        count, sentence = expectation(calibration, kind, value)
    except ValueError as error:
        return parts.problem(str(error))
    points = [(len(point.computed_steps), point.psnr) for point in calibration.measured]
    mark = (min(max(count, points[0][0]), points[-1][0]), calibration.psnr(count), sentence)
    drawn = parts.chart("Measured on held-out videos", [parts.Line("Calibrated", points)], "computed steps", "dB", mark)
    return f'<p class="st-outcome">{parts.escape(sentence)}</p>{drawn}'


class SampleTab:
    """Shows the form, the running job and the queue."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self.form = Form(studio, "AdaCache")
                with gr.Accordion("Start from an image or a video", open=False, elem_id="references"):
                    self.upload = gr.File(
                        label="Image or video",
                        file_types=["image", "video"],
                        file_count="single",
                        height=120,
                        elem_id="upload",
                    )
                    self.strategy = gr.Textbox(
                        label="Mask strategy", placeholder="empty: an image is the first frame, a video is continued"
                    )
                with gr.Row():
                    self.sample = gr.Button("Sample", variant="primary", elem_id="sample", scale=3)
                    self.dice = gr.Button("Other seed", elem_id="dice", scale=1, min_width=140)
                with gr.Accordion("Drafts: many seeds, quickly", open=False, elem_id="drafts-form"):
                    self.number = gr.Slider(
                        2, MAX_DRAFTS, value=6, step=1, label="Seeds from this one on", elem_id="number"
                    )
                    self.draft = gr.Button("Draft", elem_id="draft")
                self.problem = gr.HTML(elem_id="problem")
            with gr.Column(scale=6, min_width=320):
                self.live = gr.HTML(elem_id="live")
                self.made = gr.HTML(js_on_load=ACT, elem_id="made")
                self.jobs = gr.HTML(js_on_load=ACT, elem_id="jobs")
        self.shown = gr.State(None)  # the job whose results are shown; None: the latest
        self.inputs, self.outputs = [self.shown], [self.live, self.made, self.jobs]
        wishes = [*self.form.fields, self.upload, self.strategy]
        for event in (self.sample.click, self.form.prompt.submit):
            event(self._submit, wishes, [self.problem, self.shown], **parts.QUIET)
        self.draft.click(self._submit_drafts, [*wishes, self.number], [self.problem, self.shown], **parts.QUIET)
        self.dice.click(lambda: random.randrange(MAX_SEED), None, self.form.seed, **parts.QUIET)
        self.jobs.act(self._act, self.shown, [self.problem, self.shown, self.made], **parts.QUIET)

    def refresh(self, shown: str | None) -> list[str]:
        """Return the running job, the results, and the queue."""
        return [self.refresh_live(), self.refresh_made(shown), self.refresh_jobs()]

    def refresh_live(self) -> str:
        """Return the running job; "" between jobs."""
        now = self._studio.engine.live
        job = None if now.job is None else self._studio.queue.get(now.job)
        return "" if job is None else parts.live(now, job)

    def refresh_made(self, shown: str | None) -> str:
        """Return the results of the job `shown`, or of the latest one unless a job is running."""
        if self._studio.engine.live.job is not None and shown is None:
            return ""
        all_jobs = self._studio.queue.all()
        done = [job for job in all_jobs if job.status == "done" and shown in (None, job.id)]
        made = [sample for job in done[-1:] for sample in self._studio.made_by(job)]
        if not made and not any(job.is_open for job in all_jobs):
            return parts.empty("The video appears here. Write a prompt, or choose one, and press Sample.")
        return "".join(
            parts.card(sample, parts.compare(sample) + parts.download(sample), autoplay=True, wide=True)
            for sample in made[:4]
        )

    def refresh_jobs(self) -> str:
        """Return the queue, the newest job first."""
        return parts.jobs(reversed(self._studio.queue.open_or_latest(SHOWN_JOBS)))

    def _wish(self, *values: Any) -> Wish:
        """Return the values of the form, and the uploaded reference with its mask strategy, as a wish."""
        *fields, upload, strategy = values
        kept = () if upload is None else (self._studio.keep_reference(Path(upload)),)
        return self.form.wish(*fields, references=kept, mask_strategy=strategy or "")

    def _submit(self, *values: Any) -> list[Any]:
        said = parts.attempt(lambda: self._studio.ask(self._wish(*values)))
        return [said, gr.skip() if said else None]

    def _submit_drafts(self, *values: Any) -> list[Any]:
        *values, number = values
        said = parts.attempt(lambda: self._studio.ask(replace(self._wish(*values), drafts=int(number), outcome=None)))
        return [said, gr.skip()] if said else ["<p>The drafts come to the tab Drafts.</p>", None]

    def _act(self, shown: str | None, event: gr.EventData) -> list[Any]:
        action, id = event._data.get("act"), str(event._data.get("id", ""))
        said = ""
        if action == "cancel":
            said = parts.attempt(lambda: self._studio.engine.cancel(id))
        elif action == "retry":
            said = parts.attempt(lambda: self._studio.retry(id))
            shown = shown if said else None
        elif action == "show":
            shown = id
        return [said, shown, gr.skip() if said else self.refresh_made(shown)]
