"""Builds the page with its tabs, keeps them up to date, and serves it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Protocol

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402

from adacache.trace_plot import COMPUTED, REUSED  # noqa: E402
from opensora.studio.compare_tab import CompareTab  # noqa: E402
from opensora.studio.history_tab import DraftsTab, HistoryTab  # noqa: E402
from opensora.studio.machine_tab import BenchTab, DoctorTab  # noqa: E402
from opensora.studio.sample_tab import SampleTab  # noqa: E402
from opensora.studio.studio import MAX_UPLOAD, OWN_FOLDER, Studio  # noqa: E402

TICK_SECONDS = 0.5
DAY = 86400  # seconds after which uploads that were not kept are removed
LOCAL = ("127.0.0.1", "localhost", "::1")
CSS = Path(__file__).with_name("studio.css")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


class View(Protocol):
    """A tab of the page.

    Attributes:
        inputs: components whose values `refresh` takes.
        outputs: components whose values `refresh` returns, in this order.
    """

    inputs: list[Any]
    outputs: list[Any]

    def refresh(self, *values: Any) -> list[Any]:
        """Return what the tab shows now."""


VIEWS: dict[str, Callable[[Studio], View]] = {
    "Sample": SampleTab,
    "Compare": CompareTab,
    "Drafts": DraftsTab,
    "History": HistoryTab,
    "Bench": BenchTab,
    "Machine": DoctorTab,
}


def build(studio: Studio) -> gr.Blocks:
    """Build the page of a studio."""
    quiet = {"show_progress": "hidden"}
    views: dict[str, View] = {}
    look = {"title": "Studio: Open-Sora with AdaCache", "fill_width": True}
    with gr.Blocks(analytics_enabled=False, delete_cache=(DAY, DAY), **look) as page:
        gr.HTML("<h1>Studio</h1><p>Open-Sora v1.2 with AdaCache</p>", elem_id="head")
        now = gr.HTML(elem_id="now")
        opened = gr.State("Sample")  # the tab that is open
        sent = gr.State({})  # what this browser already shows: versions, and a hash of each component's value
        with gr.Tabs(elem_id="tabs") as tabs:
            for name, make in VIEWS.items():
                with gr.Tab(name, id=name) as tab:
                    view = views[name] = make(studio)
                show = partial(_show, name, view)
                tab.select(show, view.inputs, [opened, *view.outputs], **quiet)

        inputs = [component for view in views.values() for component in view.inputs]
        outputs = [component for view in views.values() for component in view.outputs]

        def tick(sent: dict[str, Any], opened: str, *values: Any) -> list[Any]:
            """Return what has changed since the last tick in the open tab and in the line above all tabs."""
            versions = [studio.engine.live.version, studio.queue.version]
            had = sent.get("versions", [None, None])
            if versions == had:
                return [gr.skip()] * (2 + len(outputs))
            only_steps = versions[1] == had[1] and studio.engine.live.job is not None
            fresh, rest = [now_line(studio)], list(values)
            for name, view in views.items():
                mine = [rest.pop(0) for _ in view.inputs]
                is_due = name == opened and not (only_steps and name != "Sample")
                fresh += view.refresh(*mine) if is_due else [gr.skip()] * len(view.outputs)
            hashes = {str(place): hash(repr(value)) for place, value in enumerate(fresh) if value != gr.skip()}
            kept = [gr.skip() if sent.get(str(n)) == hashes.get(str(n)) else value for n, value in enumerate(fresh)]
            return [{**sent, **hashes, "versions": versions}, *kept]

        for event in (gr.Timer(TICK_SECONDS).tick, page.load):
            event(tick, [sent, opened, *inputs], [sent, now, *outputs], **quiet)

        compare = views["Compare"]

        def go_to_compare(scene: str | None, event: gr.EventData) -> list[Any]:
            if event._data.get("act") != "compare":
                return [gr.skip()] * (2 + len(compare.outputs))
            return [gr.update(selected="Compare"), "Compare", *compare.refresh(scene, str(event._data.get("id")))]

        for html in (views["Sample"].made, views["History"].view):
            html.act(go_to_compare, compare.inputs, [tabs, opened, *compare.outputs], **quiet)
    return page


def _show(name: str, view: View, *values: Any) -> list[Any]:
    """Return the name and the content of a tab that is opened."""
    return [name, *view.refresh(*values)]


def now_line(studio: Studio) -> str:
    """Return the current job and the number of waiting ones, as a line above all tabs."""
    now, waiting = studio.engine.live, [job for job in studio.queue.all() if job.is_open]
    job = next((job for job in waiting if job.id == now.job), None)
    if job is None:
        return ""
    more = f", {len(waiting) - 1} waiting" if len(waiting) > 1 else ""
    step = f"step {len(now.computed)} of {now.num_steps}" if now.num_steps else "getting ready"
    return f'<p class="st-now">{escape(job.title)}: {step}{more}</p>'


def theme() -> gr.themes.Base:
    """Return the theme, which uses the system's fonts and loads none."""
    return gr.themes.Base(
        primary_hue="blue", secondary_hue="slate", neutral_hue="slate", font=FONTS, font_mono=MONO
    ).set(button_primary_background_fill=COMPUTED, button_primary_background_fill_hover="#1e40af")


def serve(studio: Studio, host: str, port: int, password: str | None, ready: Callable[[str], None]) -> None:
    """Serve the page until an interrupt.

    Args:
        password: password that visitors have to give, with any name; None asks for none.
        ready: called with the address.

    Raises:
        OSError: the port is taken.
    """
    page = build(studio)
    style = CSS.read_text(encoding="utf-8") + f":root{{--st-computed:{COMPUTED};--st-reused:{REUSED}}}"

    def knows_password(_name: str, given: str) -> bool:
        return secrets.compare_digest(given.encode(), str(password).encode())

    # Refuses requests of other sites whose host name was made to resolve to this machine (DNS rebinding).
    guard = [] if host not in LOCAL else [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])]
    _, address, _ = page.launch(
        app_kwargs={"middleware": guard},
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
