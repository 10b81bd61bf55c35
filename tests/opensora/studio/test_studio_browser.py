"""The studio's page in Chromium, from the prompt to what is compared: what a person sees and does.

Not part of the default run. It needs Gradio, selenium, Chromium and its driver, and is skipped where one is missing:

    pip install -r requirements-studio.txt -r requirements-browser.txt
    python -m pytest -m browser tests/opensora/studio/test_studio_browser.py
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opensora.config.loading import load_config
from opensora.files import REPO_ROOT
from support.browser import addresses_loaded, open_chromium, set_size, wait_until

pytestmark = pytest.mark.browser
pytest.importorskip("selenium", reason="selenium is missing: pip install -r requirements-browser.txt")
pytest.importorskip("gradio", reason="Gradio is missing: pip install -r requirements-studio.txt")

START = 120  # seconds until the page is there, on a busy machine
JOB = 90  # seconds for a video of the bundled model
TABS = ("Sample", "Compare", "Drafts", "History", "Bench", "Machine")
PROMPT = "a red circle moving fast to the right"
OF_GRADIO = "Method not implemented."  # a warning of its own when an upload is over
SIDE = load_config("configs/mini/sample.py").height
IN_STEP = 1.5 / 8  # seconds: the same frame or its neighbor


class Server:
    """A studio in a process of its own, for one output folder."""

    def __init__(self, folder: Path, *flags: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{port}/"
        command = [sys.executable, "scripts/studio.py", "--save-dir", str(folder), "--port", str(port), *flags]
        self._process = subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
        assert self.address in self._process.stdout.readline()

    def status_of(self, path: str, **headers: str) -> int:
        """The status of an answer."""
        try:
            request = urllib.request.Request(self.address + path, headers=headers)
            return urllib.request.urlopen(request, timeout=START).status
        except urllib.error.HTTPError as error:
            return error.code

    def end(self, how: int = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, how)
        self._process.wait(timeout=START)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("samples"), "--bench", "docs/bench")
    yield server
    server.end()


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Any]:
    browser = open_chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver, server) -> Iterator[Any]:
    """The page, newly opened; afterwards the console must be empty, and nothing came from elsewhere."""
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    open_page(driver, server)
    yield driver
    assert [entry for entry in driver.get_log("browser") if OF_GRADIO not in entry["message"]] == []
    inside = (server.address, "data:", "about:", "blob:")
    assert [address for address in addresses_loaded(driver) if not address.startswith(inside)] == []


def open_page(driver: Any, server: Server, width: int = 1280, height: int = 900) -> None:
    set_size(driver, width, height)
    driver.get(server.address)
    wait_until(
        driver, "document.querySelector('#prompt textarea') && document.querySelector('#made .st-empty, #jobs li')", 30
    )


def run(driver: Any, script: str, *arguments: Any) -> Any:
    return driver.execute_script(script, *arguments)


def click(driver: Any, selector: str, index: int = 0) -> None:
    wait_until(driver, f"document.querySelectorAll({json.dumps(selector)}).length > {index}")
    run(driver, "document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, index)


def text(driver: Any, selector: str) -> str:
    return run(driver, "return document.querySelector(arguments[0])?.textContent.trim() || ''", selector)


def fill(driver: Any, selector: str, value: str) -> None:
    """Put a text in a field, as if it was typed."""
    wait_until(driver, f"document.querySelector({json.dumps(selector)})")
    field = driver.find_element("css selector", selector)
    field.clear()
    field.send_keys(value)


def open_tab(driver: Any, name: str) -> None:
    """Open a tab, also one that a narrow page has in its menu."""
    tabs = "[...document.querySelectorAll('#tabs [role=tab], #tabs .overflow-dropdown button')]"
    run(driver, f"{tabs}.find(node => node.textContent.trim() === '{name}').click()")
    time.sleep(1)


def choose(driver: Any, selector: str, label: str) -> None:
    """Choose among radio buttons."""
    script = "[...document.querySelectorAll(arguments[0] + ' label')].find(n => n.textContent.trim() === arguments[1])"
    run(driver, f"{script}.querySelector('input').click()", selector, label)


def sample(driver: Any, prompt: str = PROMPT, variant: str = "AdaCache", seed: int = 1024, wait: bool = True) -> None:
    fill(driver, "#prompt textarea", prompt)
    choose(driver, "#variant", variant)
    fill(driver, "#seed input", str(seed))
    number = run(driver, "return document.querySelectorAll('#jobs li').length")
    time.sleep(0.5)
    click(driver, "#sample")
    wait_until(driver, f"document.querySelectorAll('#jobs li').length > {min(number, 7)}")
    if wait:
        wait_for_jobs(driver)


def wait_for_jobs(driver: Any) -> None:
    """Wait until nothing is made any more."""
    time.sleep(1.2)  # until the page has been told
    wait_until(driver, "!document.querySelector('.st-now')", JOB)
    time.sleep(1)


def overflow(driver: Any) -> int:
    """How many pixels the page is wider than what is seen."""
    return run(driver, "return document.documentElement.scrollWidth - window.innerWidth")


def test_every_tab_says_what_it_is_for_before_anything_was_made(page):
    assert "Write a prompt" in text(page, "#made")
    for tab, selector, words in (
        ("Compare", "#compare", "Nothing to compare yet"),
        ("Drafts", "#drafts", "No drafts yet"),
        ("History", "#history", "Nothing is in"),
        ("Machine", "#limits", "one video at a time"),
    ):
        open_tab(page, tab)
        wait_until(page, f"document.querySelector('{selector}')?.textContent.includes('{words}')")
    open_tab(page, "Bench")
    wait_until(page, "document.querySelector('#bench iframe')?.sandbox.value === 'allow-scripts'")


def test_from_a_prompt_to_a_playing_video(page, server):
    click(page, "[data-act=example]")
    example = text(page, "[data-act=example]")
    wait_until(page, f"document.querySelector('#prompt textarea').value === '{example}'")
    run(page, "document.querySelector('#words details').open = true")
    click(page, "[data-act=word][data-text=striped]")
    wait_until(page, f"document.querySelector('#prompt textarea').value === '{example} striped'")
    fill(page, "#prompt textarea", PROMPT)
    time.sleep(0.5)
    click(page, "#sample")
    wait_until(page, "document.querySelectorAll('#live .st-strip .st-reused').length > 0", JOB)
    assert run(page, "return document.querySelector('#live img').naturalWidth") == SIDE
    wait_until(page, "document.querySelector('#made video')?.currentTime > 0.2", JOB)
    assert run(page, "return document.querySelector('#made video').videoWidth") == SIDE
    assert len(page.find_elements("css selector", "#made .st-strip i")) == 30
    assert "AdaCache" in text(page, "#made")
    [video] = server.folder.rglob("*.mp4")
    assert video.parent.name == PROMPT.replace(" ", "-")
    click(page, "#jobs summary")
    assert "opensora sample configs/mini/sample_adacache.py" in text(page, "#jobs code")


def test_an_outcome_is_drawn_on_the_calibrated_curve(page):
    choose(page, "#variant", "Calibrated")
    wait_until(page, "document.querySelector('#curve .st-mark')")
    assert "12 of 30 steps computed" in text(page, "#curve")
    choose(page, "#outcome", "Speed-up")
    wait_until(page, "document.querySelector('#target')?.textContent.includes('Speed-up')")
    fill(page, "#target input[type=number]", "3")
    wait_until(page, "document.querySelector('#curve')?.textContent.includes('8 of 30 steps computed, 3.')")


def test_a_job_is_canceled_and_one_that_cannot_be_made_says_why(page, server):
    fill(page, "#length input", "51")
    page.find_element("css selector", "#length input").send_keys("\ue007")
    sample(page, variant="Every step", seed=9, wait=False)
    wait_until(page, "document.querySelectorAll('#live .st-strip .st-computed').length > 1", JOB)
    click(page, "#jobs .st-running [data-act=cancel]")
    wait_until(page, "document.querySelector('#jobs li .st-state').textContent === 'canceled'", JOB)
    assert not list(server.folder.rglob("*seed-9*/*.mp4"))
    choose(page, "#variant", "Calibrated")
    time.sleep(0.5)
    click(page, "#sample")
    wait_until(page, "document.querySelector('#problem')?.textContent.includes('number of frames 17')")


def test_results_of_a_prompt_and_seed_are_compared_in_step(page):
    sample(page, variant="Calibrated", seed=7)
    click(page, "#made [data-act=compare]")
    click(page, "#compare [data-act=uncached]")
    wait_until(page, "document.querySelectorAll('#compare video').length === 2", JOB)
    wait_for_jobs(page)
    assert "the reference" in text(page, "#compare .st-card")
    assert " dB" in text(page, "#compare .st-card:nth-child(2)")
    assert run(page, "return document.querySelectorAll('#compare .st-chart circle.st-hit').length") >= 17
    click(page, "[data-do=play]")
    wait_until(page, "[...document.querySelectorAll('#compare video')].every(v => !v.paused && v.currentTime > 0.4)")
    for _ in range(10):
        times = run(page, "return [...document.querySelectorAll('#compare video')].map(v => v.currentTime)")
        assert max(times) - min(times) < IN_STEP or max(times) - min(times) > 1  # one has begun again already
        time.sleep(0.05)
    click(page, "[data-do=play]")
    click(page, "[data-do=difference]")
    wait_until(page, "[...document.querySelectorAll('#compare canvas')].filter(n => !n.hidden).length === 1")
    scrub = "const n = document.querySelector('[data-do=frame]'); n.value = 10;"
    run(page, scrub + "n.dispatchEvent(new Event('input', {bubbles: true}))")
    wait_until(page, "document.querySelector('.st-frame').textContent === 'frame 11 of 17'")
    canvas = "const n = [...document.querySelectorAll('#compare canvas')].find(n => !n.hidden);"
    pixels = run(page, canvas + f"return [...n.getContext('2d').getImageData(0, 0, {SIDE}, {SIDE}).data]")
    assert 0 < np.reshape(pixels, (-1, 4))[:, :3].max() < 255


def test_drafts_become_finals(page, server):
    fill(page, "#prompt textarea", "a still yellow star on a black background")
    fill(page, "#seed input", "50")
    click(page, "#drafts-form button")
    fill(page, "#number input[type=number]", "2")
    time.sleep(0.8)
    click(page, "#draft")
    wait_for_jobs(page)
    open_tab(page, "Drafts")
    wait_until(page, "document.querySelectorAll('#drafts .st-card').length === 2", JOB)
    assert "8 of 30" in text(page, "#drafts .st-card")
    click(page, "#seeds input")
    time.sleep(0.5)
    click(page, "#final")
    wait_until(page, "document.querySelector('#drafts-said')?.textContent.includes('rendered now')")
    wait_for_jobs(page)
    assert len(list(server.folder.rglob("final/*.mp4"))) == 1


def test_an_image_is_where_a_video_begins_and_other_files_are_refused(page, server, tmp_path):
    picture = tmp_path / "red.png"
    Image.fromarray(np.full((SIDE, SIDE, 3), (200, 30, 30), np.uint8)).save(picture)
    click(page, "#references button")
    wait_until(page, "document.querySelector('#upload input[type=file]')")
    page.find_element("css selector", "#upload input[type=file]").send_keys(str(picture))
    wait_until(page, "document.querySelector('#upload')?.textContent.includes('red')")
    sample(page, seed=21)
    sidecars = [json.loads(path.read_text()).get("metadata", {}) for path in server.folder.rglob("sample_*.json")]
    assert [about["references"][0]["path"] for about in sidecars if about.get("seed") == 21]

    open_page(page, server)
    fake = tmp_path / "fake.png"
    fake.write_text("<script>alert(1)</script>")
    click(page, "#references button")
    wait_until(page, "document.querySelector('#upload input[type=file]')")
    page.find_element("css selector", "#upload input[type=file]").send_keys(str(fake))
    wait_until(page, "document.querySelector('#upload')?.textContent.includes('fake')")
    fill(page, "#prompt textarea", PROMPT)
    time.sleep(0.5)
    click(page, "#sample")
    wait_until(page, "document.querySelector('#problem')?.textContent.includes('fake.png')")


def test_history_filters_and_shows_markup_as_text(page):
    hostile = "<b onclick=alert(1)>red</b> & <img src=x onerror=alert(1)>"
    sample(page, hostile, seed=31)
    assert text(page, "#made .st-prompt") == hostile
    open_tab(page, "History")
    fill(page, "#filter textarea, #filter input", "onerror")
    wait_until(page, "document.querySelectorAll('#history .st-card').length === 1")
    assert text(page, "#history .st-prompt") == hostile
    assert run(page, "return document.querySelectorAll('#history b, #history img, #jobs b, #jobs img').length") == 0
    click(page, "#history [data-act=again]")
    wait_for_jobs(page)
    wait_until(page, "document.querySelectorAll('#history .st-card').length === 2")
    fill(page, "#filter textarea, #filter input", "no such words")
    wait_until(page, "document.querySelector('#history').textContent.includes('Nothing matches')")


def test_a_phone_shows_everything_without_scrolling_sideways(page, server):
    open_page(page, server, 390, 844)
    for tab in TABS:
        open_tab(page, tab)
        time.sleep(1)
        assert overflow(page) <= 0, tab


def test_everything_is_reached_by_the_keyboard(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    fill(page, "#prompt textarea", "a bouncing red star")
    reached = []
    for _ in range(40):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(run(page, "const n = document.activeElement; return n.id || n.closest('[id]')?.id"))
        if reached[-1] == "sample":
            break
    assert reached[-1] == "sample", reached
    number = run(page, "return document.querySelectorAll('#jobs li').length")
    ActionChains(page).send_keys(Keys.SPACE).perform()
    wait_until(page, f"document.querySelectorAll('#jobs li').length > {min(number, 7)}")
    wait_for_jobs(page)


def test_only_results_are_served(page, server):
    video = next(server.folder.rglob("*.mp4"))
    assert server.status_of(f"gradio_api/file={video}") == 200
    for path in ("/etc/passwd", REPO_ROOT / "setup.py", server.folder / ".studio/queue.json"):
        assert server.status_of(f"gradio_api/file={path}") == 403, path
    assert server.status_of(f"gradio_api/file={server.folder}/../../../../../../../../etc/passwd") in (403, 404)


def test_pages_of_other_sites_are_not_let_in(server):
    assert server.status_of("config") == 200
    assert server.status_of("config", Host="studio.example") == 400
    upload = urllib.request.Request(f"{server.address}gradio_api/upload", b"x", {"Origin": "http://studio.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(upload)


def test_a_password_keeps_everything_from_those_who_lack_it(tmp_path):
    file = tmp_path / "samples/x.mp4"
    server = Server(file.parent, "--password", "correct horse")
    file.write_bytes(b"x")
    try:
        assert server.status_of("config") == 401
        assert server.status_of(f"gradio_api/file={file}") == 401
    finally:
        server.end()


def test_a_studio_that_is_killed_goes_on_where_it_was(driver, tmp_path):
    first = Server(tmp_path)
    open_page(driver, first)
    sample(driver, variant="Every step", seed=1, wait=False)
    sample(driver, variant="Every step", seed=2, wait=False)
    first.end(signal.SIGKILL)
    driver.get("about:blank")
    second = Server(tmp_path)
    try:
        open_page(driver, second)
        wait_until(driver, "document.querySelectorAll('#jobs .st-done').length === 2", 2 * JOB)
        assert len(list(tmp_path.rglob("*.mp4"))) == 2
    finally:
        driver.get("about:blank")
        second.end()
