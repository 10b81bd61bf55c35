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
        with gr.Tabs(elem_id="tabs"), gr.Tab("Sample", id="sample"):
            sample = SampleTab(studio)
        seen = gr.State([-1, -1])

        def tick(seen: list[int], shown: str | None) -> list[Any]:
            now = [studio.engine.live.version, studio.queue.version]
            if now == seen:
                return [gr.skip()] * 4
            if now[1] == seen[1] and studio.engine.live.job is not None:
                return [now, sample.refresh_live(), gr.skip(), gr.skip()]
            return [now, sample.refresh_live(), sample.refresh_made(shown), sample.refresh_jobs()]

        outputs = [seen, sample.live, sample.made, sample.jobs]
        gr.Timer(TICK_SECONDS).tick(tick, [seen, sample.shown], outputs, show_progress="hidden")
        page.load(tick, [seen, sample.shown], outputs, show_progress="hidden")
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
