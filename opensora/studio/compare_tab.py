"""The Compare tab, on which results of one prompt and seed play in step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from opensora.studio import parts
from opensora.studio.results import Sample, further_steps, scenes
from opensora.studio.studio import Studio

PLAYER = Path(__file__).with_name("player.js")
MAX_SIDE_BY_SIDE = 5  # as many as the charts have colors
RATES = (("1", "1x"), ("0.5", "0.5x"), ("0.25", "0.25x"))


class CompareTab:
    """Shows the results of a scene side by side, with buttons that render further ones."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.scene = gr.Dropdown([], label="Prompt and seed", elem_id="scene", interactive=True)
        self.chosen = gr.CheckboxGroup([], label="Results", elem_id="chosen", visible=False)
        self.problem = gr.HTML(elem_id="compare-problem")
        self.view = gr.HTML(js_on_load=PLAYER.read_text(encoding="utf-8"), elem_id="compare")
        self.inputs, self.outputs = [self.scene], [self.scene, self.chosen, self.view]
        self.scene.input(self._show_scene, self.scene, [self.chosen, self.view], show_progress="minimal")
        self.chosen.input(self._show_chosen, [self.scene, self.chosen], self.view, show_progress="minimal")
        self.view.act(self._act, None, self.problem, **parts.QUIET)

    def refresh(self, scene: str | None, wanted: str | None = None) -> list[Any]:
        """Return the current scenes and the results of one.

        That is the scene of the sample `wanted`, or else the chosen scene, or else the newest one with two results.
        """
        groups = self._groups()
        if not groups:
            nothing = parts.empty(
                "Nothing to compare yet. Sample a prompt; here it is compared with every step computed."
            )
            return [gr.update(choices=[], value=None), gr.update(choices=[], visible=False), nothing]
        if wanted is not None:
            scene = next((id for id, group in groups.items() if any(s.id == wanted for s in group)), scene)
        if scene not in groups:
            scene = next((id for id, group in groups.items() if len(group) > 1), next(iter(groups)))
        choices = [(_scene_label(group), id) for id, group in groups.items()]
        return [gr.update(choices=choices, value=scene), *self._results_of(groups[scene])]

    def _show_scene(self, scene: str | None) -> list[Any]:
        return self._results_of(self._groups().get(scene or "", []))

    def _results_of(self, group: Sequence[Sample]) -> list[Any]:
        """Return a scene's results to choose from, and the first few of them side by side."""
        chosen = _first_ones(group)
        choices = [(sample.label, sample.id) for sample in group]
        boxes = gr.update(choices=choices, value=[sample.id for sample in chosen], visible=len(group) > 2)
        return [boxes, self._compare(chosen, group)]

    def _show_chosen(self, scene: str | None, chosen: Sequence[str]) -> str:
        group = self._groups().get(scene or "", [])
        return self._compare([sample for sample in group if sample.id in chosen][:MAX_SIDE_BY_SIDE], group)

    def _groups(self) -> dict[str, list[Sample]]:
        found = scenes([sample for sample in self._studio.results.all() if not sample.is_draft])
        return {hashlib.sha256(repr(scene).encode()).hexdigest()[:12]: group for scene, group in found.items()}

    def _compare(self, samples: Sequence[Sample], group: Sequence[Sample]) -> str:
        if not samples:
            return parts.empty("Choose a result above.")
        reference, others = samples[0], samples[1:]
        cards, lines, problems = [], [], []
        for number, sample in enumerate(samples):
            note = "the reference" if others else ""
            if sample is not reference:
                try:
                    by_frame, whole = self._studio.results.psnr(sample, reference)
                    note = f"{whole:.1f} dB"
                    lines.append(parts.Line(sample.label, list(enumerate(by_frame, 1)), number % MAX_SIDE_BY_SIDE))
                except (OSError, ValueError) as error:
                    problems.append(parts.problem(str(error)))
            cards.append(_card(sample, note))
        frames = len(lines[0].points) if lines else reference.size[0]  # clips that continue each other have more
        charts = [_measured(samples)]
        if frames > 1:
            charts.insert(0, parts.chart("PSNR of each frame to the first video", lines, "frame", "dB", cursor=True))
        about = f'data-fps="{reference.fps}" data-frames="{frames}"'
        player = _controls(frames, bool(others)) if not reference.is_image else ""
        return (
            f'<div class="st-compare" {about}>{"".join(problems)}<div class="st-side-by-side">{"".join(cards)}</div>'
            f'{player}<div class="st-more">{self._more(group)}</div>'
            f'<div class="st-charts">{"".join(charts)}</div></div>'
        )

    def _more(self, group: Sequence[Sample]) -> str:
        """Return the buttons that render another video of the scene."""
        base, buttons = min(group, key=lambda sample: len(sample.id)), ""
        has_all, more, total = further_steps(group)
        if not has_all:
            buttons += parts.button("uncached", "Render with every step computed", id=base.id)
        if base.metadata["config"].get("calibration") and more is not None:
            buttons += parts.button("more", f"Render with {more} of {total} steps", id=base.id, count=str(more))
        return buttons

    def _act(self, event: gr.EventData) -> str:
        action, id = event._data.get("act"), str(event._data.get("id", ""))
        if action not in ("uncached", "more"):
            return ""
        count = int(event._data["count"]) if action == "more" else None
        return parts.attempt(lambda: self._studio.ask_again(self._studio.results.get(id), count))


def _first_ones(group: Sequence[Sample]) -> list[Sample]:
    """Return the result with the most computed steps, and the newest of the others."""
    if len(group) <= MAX_SIDE_BY_SIDE:
        return list(group)
    newest = sorted(group[1:], key=lambda sample: sample.finished, reverse=True)[: MAX_SIDE_BY_SIDE - 1]
    return [group[0], *(sample for sample in group if sample in newest)]


def _scene_label(group: Sequence[Sample]) -> str:
    frames, height, width = group[0].size
    many = f"{len(group)} results" if len(group) > 1 else "1 result"
    return f"{group[0].prompt}, seed {group[0].seed}, {frames} frames of {height} x {width} ({many})"


def _card(sample: Sample, note: str) -> str:
    picture = parts.media(sample)
    return (
        f'<article class="st-card"><div class="st-stage">{picture}<canvas hidden></canvas></div><div>'
        f'<p class="st-prompt">{parts.escape(sample.variant)}</p>'
        f"<p>{parts.escape(parts.figures(sample))}{f', {parts.escape(note)}' if note else ''}</p>"
        f"{parts.strip(sample.computed)}</div></article>"
    )


def _controls(frames: int, has_others: bool) -> str:
    rates = "".join(f'<option value="{value}">{text}</option>' for value, text in RATES)
    difference = ""
    if has_others:
        difference = '<label><input type="checkbox" data-do="difference"> Difference to the first, 4x</label>'
    return (
        '<div class="st-controls" role="group" aria-label="All videos">'
        '<button type="button" class="st-button" data-do="play">Play</button>'
        f'<input type="range" data-do="frame" min="0" max="{frames - 1}" value="0" aria-label="Frame">'
        f'<span class="st-frame">frame 1 of {frames}</span>'
        f'<label>Speed <select data-do="rate" aria-label="Speed">{rates}</select></label>{difference}</div>'
    )


def _measured(samples: Sequence[Sample]) -> str:
    """Return a chart of the relative change that each sample measured at its steps, by which steps were chosen."""
    lines = []
    for number, sample in enumerate(samples):
        records = enumerate(sample.records, 1)  # those of clips that continue each other follow each other
        points = [(number, r["distance"]) for number, r in records if r.get("distance") is not None]
        if len(points) > 1:
            lines.append(parts.Line(sample.label, points, number % MAX_SIDE_BY_SIDE))
    return parts.chart("Change measured at computed steps", lines, "step", "relative change per step")
