"""Builds the page with its tabs, keeps them up to date, and serves it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr  # noqa: E402
from starlette.datastructures import Headers  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402
from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402

from adacache.trace_plot import COMPUTED, REUSED  # noqa: E402
from opensora.errors import ConfigError  # noqa: E402
from opensora.studio import LOCAL, parts  # noqa: E402
from opensora.studio.compare_tab import CompareTab  # noqa: E402
from opensora.studio.history_tab import DraftsTab, HistoryTab  # noqa: E402
from opensora.studio.machine_tab import BenchTab, DoctorTab  # noqa: E402
from opensora.studio.sample_tab import SampleTab  # noqa: E402
from opensora.studio.studio import MAX_UPLOAD, OWN_FOLDER, Studio  # noqa: E402

TICK_SECONDS = 0.5
DAY = 86400  # seconds after which uploads that were not kept are removed
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
    views: dict[str, View] = {}
    look = {"title": "Studio: Open-Sora with AdaCache", "fill_width": True}
    with gr.Blocks(analytics_enabled=False, delete_cache=(DAY, DAY), **look) as page:
        gr.HTML("<h1>Studio</h1><p>Open-Sora v1.2 with AdaCache</p>", elem_id="head")
        now = gr.HTML(elem_id="now")
        opened = gr.State("Sample")  # the tab that is open
        sent = gr.State({})  # what this browser already shows: versions, and a hash of each component's value
        places: dict[str, int] = {}  # of a tab's first output among all; the line above them has place 0
        with gr.Tabs(elem_id="tabs") as tabs:
            for name, make in VIEWS.items():
                with gr.Tab(name, id=name) as tab:
                    view = views[name] = make(studio)
                show = partial(_show, name, view, places)
                tab.select(show, [sent, *view.inputs], [sent, opened, *view.outputs], **parts.QUIET)
                places[name] = 1 + sum(len(view.outputs) for view in views.values()) - len(view.outputs)

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
            hashes = _hashes(fresh)
            kept = [gr.skip() if sent.get(str(n)) == hashes.get(str(n)) else value for n, value in enumerate(fresh)]
            return [{**sent, **hashes, "versions": versions}, *kept]

        for event in (gr.Timer(TICK_SECONDS).tick, page.load):
            event(tick, [sent, opened, *inputs], [sent, now, *outputs], **parts.QUIET)

        compare = views["Compare"]

        def go_to_compare(sent: dict[str, Any], scene: str | None, event: gr.EventData) -> list[Any]:
            if event._data.get("act") != "compare":
                return [gr.skip()] * (3 + len(compare.outputs))
            fresh = compare.refresh(scene, str(event._data.get("id")))
            return [sent | _hashes(fresh, places["Compare"]), gr.update(selected="Compare"), "Compare", *fresh]

        for html in (views["Sample"].made, views["History"].view):
            html.act(go_to_compare, [sent, *compare.inputs], [sent, tabs, opened, *compare.outputs], **parts.QUIET)
    return page


def _show(name: str, view: View, places: Mapping[str, int], sent: dict[str, Any], *values: Any) -> list[Any]:
    """Fill a tab that was just opened."""
    fresh = view.refresh(*values)
    return [sent | _hashes(fresh, places[name]), name, *fresh]


def _hashes(values: Sequence[Any], first: int = 0) -> dict[str, int]:
    """Return hashes of the values that are sent, by the places of their components, which begin with `first`."""
    return {str(place): hash(repr(value)) for place, value in enumerate(values, first) if value != gr.skip()}


class OwnPages:
    """Refuses what pages of other sites send, such as uploads.

    Browsers say from which site a request comes; some do so only over HTTPS and on this machine, and name the origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        app = self._app
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            site, origin = headers.get("sec-fetch-site"), headers.get("origin")
            is_own = site in ("same-origin", "none") if site else origin is None or _host(origin) == headers.get("host")
            if not is_own:
                app = PlainTextResponse("other sites are not let in", status_code=403)
        await app(scope, receive, send)


def _host(origin: str) -> str:
    return urlsplit(origin).netloc


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


def serve(studio: Studio, host: str, port: int | None, password: str | None, ready: Callable[[str], None]) -> None:
    """Serve the page until an interrupt.

    Args:
        port: None takes the first free one from 7860 on.
        password: password that visitors have to give, with any name; None asks for none.
        ready: called with the address.

    Raises:
        ConfigError: the port is taken, or the host does not belong to this machine.
    """
    page = build(studio)
    style = CSS.read_text(encoding="utf-8") + f":root{{--st-computed:{COMPUTED};--st-reused:{REUSED}}}"

    def knows_password(_name: str, given: str) -> bool:
        return secrets.compare_digest(given.encode(), str(password).encode())

    # Refuses requests of other sites whose host name was made to resolve to this machine (DNS rebinding).
    guard = [Middleware(OwnPages)]
    if host in LOCAL:
        guard.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL)))
    try:
        _, address, _ = page.launch(
            app_kwargs={"middleware": guard},
            server_name=host,
            server_port=port,
            auth=None if password is None else knows_password,
            auth_message="Any name; the password is the one the studio was started with.",
            allowed_paths=[str(studio.root)],
            blocked_paths=[str(studio.root / OWN_FOLDER)],
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
    except OSError:
        where = host if port is None else f"{host}, port {port}"
        raise ConfigError(f"the page cannot be served at {where}; choose another --port or --host") from None
    ready(address)
    try:
        while True:
            time.sleep(3600)
    finally:
        page.close(verbose=False)
