"""The History tab, with everything in the output folder, and the Drafts tab, with drafts to choose from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from opensora.studio import parts
from opensora.studio.results import Sample
from opensora.studio.sample_tab import ACT
from opensora.studio.studio import Studio

PAGE = 24  # results at a time


class HistoryTab:
    """Shows all results, the newest first, filtered by words of their prompt, variant or folder."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.filter = gr.Textbox(
            label="Filter", placeholder="words of a prompt, a variant, or a folder", elem_id="filter", max_lines=1
        )
        self.problem = gr.HTML(elem_id="history-problem")
        self.view = gr.HTML(js_on_load=ACT, elem_id="history")
        self.count = gr.State(PAGE)
        self.inputs, self.outputs = [self.filter, self.count], [self.view]
        self.filter.change(self._list, self.inputs, self.view, **parts.QUIET)
        self.view.act(self._act, self.inputs, [self.problem, self.view, self.count], **parts.QUIET)

    def refresh(self, text: str, count: int) -> list[str]:
        """Return the results that match the filter."""
        return [self._list(text, count)]

    def _list(self, text: str, count: int) -> str:
        words = (text or "").lower().split()
        every = self._studio.results.all()
        found = [sample for sample in every if all(word in _searched(sample) for word in words)]
        if not found:
            return parts.empty("Nothing matches." if every else f"Nothing is in {self._studio.root} yet.")
        cards = "".join(parts.card(sample, _buttons(sample)) for sample in found[:count])
        more = parts.button("page", f"Show more of {len(found)}") if len(found) > count else ""
        return f'<div class="st-gallery">{cards}</div><p>{more}</p>'

    def _act(self, text: str, count: int, event: gr.EventData) -> list[Any]:
        action, id = event._data.get("act"), str(event._data.get("id", ""))
        if action == "page":
            return ["", self._list(text, count + PAGE), count + PAGE]
        said = ""
        if action == "again":
            said = parts.attempt(lambda: self._studio.remake(self._studio.results.get(id)))
        return [said, gr.skip(), count]


def _searched(sample: Sample) -> str:
    return f"{sample.prompt} {sample.variant} {sample.id} seed {sample.seed}".lower()


def _buttons(sample: Sample) -> str:
    return parts.compare(sample) + parts.button("again", "Render again", id=sample.id) + parts.download(sample)


class DraftsTab:
    """Shows quick drafts of a prompt with many seeds, and renders finals of the chosen ones."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.run = gr.Dropdown([], label="Drafts of", elem_id="drafts-run", interactive=True)
        self.view = gr.HTML(elem_id="drafts")
        self.chosen = gr.CheckboxGroup([], label="Seeds to render well", elem_id="seeds", visible=False)
        self.final = gr.Button("Render finals", variant="primary", elem_id="final", visible=False)
        self.said = gr.HTML(elem_id="drafts-said")
        self.inputs, self.outputs = [self.run, self.chosen], [self.run, self.view, self.chosen, self.final]
        self.run.input(self._show, self.run, [self.view, self.chosen, self.final], **parts.QUIET)
        self.final.click(self._render, [self.run, self.chosen], self.said, **parts.QUIET)

    def refresh(self, run: str | None, chosen: Sequence[str]) -> list[Any]:
        """Return the current draft runs, and show the chosen run with its chosen seeds, or else the newest run."""
        runs = self._runs()
        run = run if run in runs else next(iter(runs), None)
        choices = [(f"{drafts[0].prompt} ({len(drafts)} drafts)", name) for name, drafts in runs.items()]
        return [gr.update(choices=choices, value=run, visible=bool(runs)), *self._show(run, chosen)]

    def _runs(self) -> dict[str, list[Sample]]:
        """Return the drafts by folder and command, since runs of several commands may share a folder."""
        runs: dict[str, list[Sample]] = {}
        for sample in self._studio.results.all():
            if sample.is_draft:
                runs.setdefault(json.dumps([str(sample.video.parent), *sample.command]), []).append(sample)
        return {name: sorted(drafts, key=lambda draft: draft.seed) for name, drafts in runs.items()}

    def _show(self, run: str | None, chosen: Sequence[str] = ()) -> list[Any]:
        drafts = self._runs().get(run or "", [])
        if not drafts:
            sentence = "No drafts yet. On the tab Sample, open Drafts to try a prompt under many seeds quickly."
            return [parts.empty(sentence), gr.update(choices=[], visible=False), gr.update(visible=False)]
        cards = "".join(parts.card(draft, autoplay=True) for draft in drafts)
        choices = [(f"{draft.seed}", draft.id) for draft in drafts]
        view = f'<div class="st-gallery">{cards}</div>'
        kept = [draft.id for draft in drafts if draft.id in (chosen or ())]
        return [view, gr.update(choices=choices, value=kept, visible=True), gr.update(visible=True)]

    def _render(self, run: str | None, chosen: list[str]) -> str:
        drafts = [draft for draft in self._runs().get(run or "", []) if draft.id in chosen]
        if not drafts:
            return parts.problem("Choose at least one seed.")
        if said := parts.attempt(lambda: self._studio.render_finals(drafts)):
            return said
        many = "is" if len(drafts) == 1 else "are"
        return f"<p>{len(drafts)} of them {many} rendered now; the tab Sample shows how far it is.</p>"
