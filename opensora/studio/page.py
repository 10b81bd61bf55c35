"""The page: its tabs, what keeps them up to date, and how it is served."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr  # noqa: E402

from adacache.trace_plot import COMPUTED, REUSED  # noqa: E402
from opensora.studio.compare_tab import CompareTab  # noqa: E402
from opensora.studio.history_tab import DraftsTab, HistoryTab  # noqa: E402
from opensora.studio.machine_tab import BenchTab, DoctorTab  # noqa: E402
from opensora.studio.sample_tab import SampleTab  # noqa: E402
from opensora.studio.studio import MAX_UPLOAD, OWN_FOLDER, Studio  # noqa: E402

TICK_SECONDS = 0.5
CSS = Path(__file__).with_name("studio.css")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def build(studio: Studio) -> gr.Blocks:
    """The page of a studio."""
    with gr.Blocks(title="Studio: Open-Sora with AdaCache", analytics_enabled=False, fill_width=True) as page:
        gr.HTML("<h1>Studio</h1><p>Open-Sora v1.2 with AdaCache</p>", elem_id="head")
        now = gr.HTML(elem_id="now")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Sample", id="sample"):
                sample = SampleTab(studio)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = CompareTab(studio)
            with gr.Tab("Drafts", id="drafts") as drafts_tab:
                drafts = DraftsTab(studio)
            with gr.Tab("History", id="history") as history_tab:
                history = HistoryTab(studio)
            with gr.Tab("Bench", id="bench") as bench_tab:
                bench = BenchTab(studio)
            with gr.Tab("Machine", id="machine"):
                DoctorTab()
        seen = gr.State([-1, -1])
        kept = gr.State({})

        def tick(
            seen: list[int], kept: dict[str, int], shown: str | None, scene: str | None, run: str | None, *listed: Any
        ) -> list[Any]:
            """What has changed since the last tick; a part that is as it was is not sent again."""
            versions = [studio.engine.live.version, studio.queue.version]
            if versions == seen:
                return [gr.skip()] * len(outputs)
            parts = [sample.refresh_line(), sample.refresh_live()]
            if versions[1] != seen[1] or studio.engine.live.job is None:
                parts += [sample.refresh_made(shown), sample.refresh_jobs(), *compare.refresh(scene)]
                parts += [*drafts.refresh(run), history.refresh(*listed)]
            new = {str(number): hash(repr(part)) for number, part in enumerate(parts)}
            sent = [gr.skip() if kept.get(n) == new[n] else part for n, part in zip(new, parts, strict=True)]
            return [versions, kept | new, *sent, *[gr.skip()] * (len(outputs) - 2 - len(sent))]

        inputs = [seen, kept, sample.shown, compare.scene, drafts.run, history.filter, history.count]
        outputs = [seen, kept, now, sample.live, sample.made, sample.jobs, *compare.outputs, *drafts.outputs]
        outputs.append(history.view)
        gr.Timer(TICK_SECONDS).tick(tick, inputs, outputs, show_progress="hidden")
        page.load(tick, inputs, outputs, show_progress="hidden")

        quiet = {"show_progress": "hidden"}
        compare_tab.select(compare.refresh, compare.scene, compare.outputs, **quiet)
        drafts_tab.select(drafts.refresh, drafts.run, drafts.outputs, **quiet)
        history_tab.select(history.refresh, [history.filter, history.count], history.view, **quiet)
        bench_tab.select(bench.refresh, None, bench.view, **quiet)

        def go_to_compare(scene: str | None, event: gr.EventData) -> list[Any]:
            if event._data.get("act") != "compare":
                return [gr.skip()] * 4
            return [gr.update(selected="compare"), *compare.refresh(scene, str(event._data.get("id")))]

        for view in (sample.made, history.view):
            view.act(go_to_compare, compare.scene, [tabs, *compare.outputs], **quiet)
    return page


def theme() -> gr.themes.Base:
    """The look, with fonts of the system: none is loaded from elsewhere."""
    return gr.themes.Base(
        primary_hue="blue", secondary_hue="slate", neutral_hue="slate", font=FONTS, font_mono=MONO
    ).set(button_primary_background_fill=COMPUTED, button_primary_background_fill_hover="#1e40af")


def serve(studio: Studio, host: str, port: int, password: str | None, ready: Callable[[str], None]) -> None:
    """Serve the page until an interrupt.

    Args:
        password: asked of whoever comes, with any name.
        ready: is given the address.

    Raises:
        OSError: the port is taken.
    """
    page = build(studio)
    style = CSS.read_text(encoding="utf-8") + f":root{{--st-computed:{COMPUTED};--st-reused:{REUSED}}}"

    def knows_password(_name: str, given: str) -> bool:
        return secrets.compare_digest(given.encode(), str(password).encode())

    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        auth=None if password is None else knows_password,
        auth_message="Any name; the password is the one the studio was started with.",
        allowed_paths=[str(studio.root)],
        blocked_paths=[str(studio.root / OWN_FOLDER / name) for name in ("queue.json", "worker.log")],
        max_file_size=MAX_UPLOAD,
        theme=theme(),
        css=style,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        quiet=True,
        show_error=True,
        prevent_thread_lock=True,
    )
    ready(address)
    try:
        while True:
            time.sleep(3600)
    finally:
        page.close(verbose=False)
