"""The bench's report in Chromium, opened as a local file: what a reader sees and does.

Not part of the default run. It needs Chromium and its driver (`apt install chromium chromium-driver`) and selenium
(`pip install -r requirements-browser.txt`), and is skipped where they are missing:

    python -m pytest -m browser tests/bench/test_report_browser.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.report import render
from support.bench_folder import SHAPES, bench_data, write_bench
from support.browser import PATIENCE, addresses_loaded, open_chromium, set_size, wait_until

pytestmark = pytest.mark.browser
pytest.importorskip("selenium", reason="selenium is missing: pip install -r requirements-browser.txt")

PROMPTS = ["a red circle moving fast to the right", "a still <b>white</b> star & a blue square"]
IN_STEP = 1.5 / 24  # seconds: videos that show the same frame or its neighbor
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """Address of a report with all kinds of things in it: two shown budgets, and a video that is missing."""
    data = bench_data(SHAPES, PROMPTS, shown=(8, 12))
    folder = write_bench(tmp_path_factory.mktemp("bench"), data)
    (folder / "showcase/01_teacache_08.mp4").unlink()
    return render(folder).as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Any]:
    """A browser of its own profile that writes down its console and what it loads."""
    browser = open_chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver, page) -> Iterator[Open]:
    """Open the report at a size, with media features; afterwards the console must be empty and nothing was loaded."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)

    def open_page(width: int = 1280, height: int = 900, **features: str) -> Any:
        set_size(driver, width, height)
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        driver.get("about:blank")
        driver.get(page)
        return driver

    yield open_page
    assert driver.get_log("browser") == []
    loaded = addresses_loaded(driver)
    assert [address for address in loaded if not address.startswith(("data:", "about:"))] in ([page], [page, page])


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def find_all(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def texts(driver: Any, selector: str) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent)", selector
    )


def scroll_to(driver: Any, selector: str) -> None:
    driver.execute_script(
        "document.querySelector(arguments[0]).scrollIntoView({block: 'start', behavior: 'instant'})", selector
    )


def hover(driver: Any, selector: str, index: int = 0) -> dict[str, float]:
    """Put the mouse on the middle of an element; where that is."""
    box = driver.execute_script(
        "const node = document.querySelectorAll(arguments[0])[arguments[1]];"
        "node.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = node.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]",
        selector,
        index,
    )
    for dx in (2, 0):
        position = {"type": "mouseMoved", "x": box[0] + dx, "y": box[1]}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", position)
    return {"x": box[0], "y": box[1]}


def press(driver: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def click(driver: Any, node: Any) -> None:
    """A click that does not depend on where the page has scrolled to."""
    driver.execute_script("arguments[0].click()", node)


def tooltip(driver: Any) -> str:
    wait_until(driver, "!document.getElementById('tooltip').hidden")
    return find(driver, "#tooltip").text


def test_the_page_opens_with_all_its_parts(opened):
    driver = opened()
    assert "Calibrated (ours) has the best PSNR" in find(driver, ".headline").text
    wait_until(driver, "document.querySelectorAll('.vega-host svg').length === 2")
    assert len(find_all(driver, "[data-part='quality-chart'] .role-legend-label text")) == len(SHAPES)
    names = texts(driver, "[data-part='gains'] .role-axis-label text")
    assert not {shape.title for shape in SHAPES if shape.name != "adacache"} - set(names)  # the baseline is the line
    points = bench_data()["points"]
    assert len(find_all(driver, ".numbers tbody tr")) == len(points) + 2
    assert len(find_all(driver, ".card")) == len(SHAPES) + 2
    assert texts(driver, ".prompt-bar option")[1] == f"2 of 2: {PROMPTS[1]}"


@pytest.mark.parametrize("width", [390, 360, 768])
def test_nothing_is_wider_than_the_screen(opened, width):
    driver = opened(width, 844)
    assert driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
    outside = driver.execute_script(
        "return [...document.querySelectorAll('main *')].filter(node => !node.closest('.scroller, .tooltip')"
        " && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.outerHTML.slice(0, 120))"
    )
    assert outside == []


def test_videos_play_and_stay_in_step(opened):
    driver = opened()
    scroll_to(driver, "#videos")
    everything_plays = "[...document.querySelectorAll('video')].every(video => video.readyState >= 2 && !video.paused)"
    wait_until(driver, everything_plays)
    times = driver.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const videos = [...document.querySelectorAll("video")];
        const seen = [];
        const sample = () => {
          const all = videos.every((video) => !video.seeking && !video.paused);
          if (all) seen.push(videos.map((video) => video.currentTime));
          if (seen.length < 120) requestAnimationFrame(sample);
          else done(seen);
        };
        sample();
        """
    )
    assert len(times[0]) == len(SHAPES) + 2
    assert max(row[0] for row in times) - min(row[0] for row in times) > 0.3  # seconds of 0.7
    apart = sorted(max(row) - min(row) for row in times)
    assert apart[len(apart) * 9 // 10] < IN_STEP
    # It loops: at some time the clock goes back.
    wait_until(driver, "(window.last ?? 0) > (window.last = document.querySelector('video').currentTime)")


def test_play_pause_and_the_scrubber_move_all_videos(opened):
    driver = opened(prefers_reduced_motion="reduce")
    scroll_to(driver, "#videos")
    wait_until(driver, "[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
    button = find(driver, ".play")
    assert button.text == "Play"
    assert driver.execute_script("return [...document.querySelectorAll('video')].every(video => video.paused)")
    driver.execute_script(
        "const scrubber = document.querySelector('.scrub input'); scrubber.value = 9;"
        "scrubber.dispatchEvent(new Event('input'))"
    )
    wait_until(driver, "[...document.querySelectorAll('video')].every(v => !v.seeking && v.currentTime > 0)")
    times = driver.execute_script("return [...document.querySelectorAll('video')].map(video => video.currentTime)")
    assert max(times) - min(times) < 1e-3
    assert times[0] == pytest.approx(9.5 / 24, abs=1e-3)
    assert find(driver, ".scrub output").text == "frame 10 of 17"
    click(driver, button)
    wait_until(driver, "[...document.querySelectorAll('video')].every(video => !video.paused)")
    assert button.text == "Pause"
    click(driver, button)
    wait_until(driver, "[...document.querySelectorAll('video')].every(video => video.paused)")


def test_the_reader_s_pause_is_kept_while_scrolling(opened):
    driver = opened()
    scroll_to(driver, "#videos")
    wait_until(driver, "document.querySelector('.play').textContent === 'Pause'")
    click(driver, find(driver, ".play"))
    scroll_to(driver, "h1")
    scroll_to(driver, "#videos")
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert find(driver, ".play").text == "Play"


def test_a_step_shows_its_numbers_when_pointed_at(opened):
    driver = opened()
    strip = ".card[data-policy='calibrated'] .cell"
    assert len(find_all(driver, strip)) == 30
    hover(driver, strip, 5)
    text = tooltip(driver)
    assert text.startswith("Step 5: computed\nTimestep\n833.3\nDistance\n0.0517")
    assert "Steps until the next\n2" in text and "Time\n21.4 ms" in text
    hover(driver, strip, 6)
    assert tooltip(driver).startswith("Step 6: reused\nTimestep\n800.0\nTime")
    hover(driver, ".card[data-policy='pab'] .cell", 1)
    assert tooltip(driver).startswith("Step 1: 40 % computed")


def test_steps_are_walked_with_the_arrow_keys(opened):
    driver = opened()
    driver.execute_script("document.querySelector(\".card[data-policy='calibrated'] .cell\").focus()")
    press(driver, "ARROW_RIGHT")
    press(driver, "ARROW_RIGHT")
    label = driver.switch_to.active_element.get_attribute("aria-label")
    assert label.startswith("Step 2: ")
    assert tooltip(driver).startswith("Step 2: ")
    press(driver, "ESCAPE")
    assert find(driver, "#tooltip").get_attribute("hidden") is not None


MARK = "[data-part='quality-chart'] path[aria-roledescription='point']"


def test_a_mark_shows_its_numbers_and_brings_its_curve_forward(opened):
    driver = opened()
    wait_until(driver, f'document.querySelectorAll("{MARK}").length > 0')
    labels = [node.get_attribute("aria-label") for node in find_all(driver, MARK)]
    own = [index for index, label in enumerate(labels) if "Calibrated (ours)" in label]
    hover(driver, MARK, own[-1])
    text = tooltip(driver)
    assert text.startswith("Calibrated (ours), budget 20\nPSNR to uncached\n")
    assert "over AdaCache\n+" in text and "Compute\n" in text
    faded = f"[...document.querySelectorAll(\"{MARK}\")].filter(node => node.getAttribute('opacity') < 1).length"
    wait_until(driver, f"{faded} === {len(labels) - len(own)}")


def test_a_name_in_the_legend_brings_its_policy_forward(opened):
    driver = opened()
    wait_until(driver, f'document.querySelectorAll("{MARK}").length > 0')
    names = texts(driver, "[data-part='quality-chart'] .role-legend-label text")
    place = hover(driver, "[data-part='quality-chart'] .role-legend-label text", names.index("TeaCache"))
    for kind in ("mousePressed", "mouseReleased"):
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "button": "left", "clickCount": 1, **place})
    shown = f"[...document.querySelectorAll(\"{MARK}\")].filter(node => node.getAttribute('opacity') >= 1)"
    wait_until(driver, f"{shown}.length === 5 && {shown}.every(node => node.ariaLabel.includes('TeaCache'))")


def test_the_metric_changes_everywhere(opened):
    driver = opened()
    wait_until(driver, "document.querySelectorAll('.vega-host svg').length === 2")
    select = find(driver, "#quality select")
    driver.execute_script("arguments[0].value = 'psnr_exact'; arguments[0].dispatchEvent(new Event('change'))", select)
    chosen = "[...document.querySelectorAll('#gains select, #all select')].every(node => node.value === 'psnr_exact')"
    assert driver.execute_script(f"return {chosen}")
    heads = [head.text for head in find_all(driver, "#all thead th:not([hidden])")]
    assert heads[2].startswith("PSNR to 200 steps over AdaCache") and not heads[3].endswith("over AdaCache")
    title = "document.querySelector('[data-part=quality-chart] .role-title-text').textContent"
    wait_until(driver, f"{title} === 'PSNR to 200 steps (dB), higher is better,against compute (steps)'")
    wait_until(driver, "document.querySelector('.vega-host').textContent.includes('Uncached, 30 steps')")


def test_on_a_phone_differences_are_of_one_budget(opened):
    driver = opened(390, 844)
    heads = "[...document.querySelectorAll('[data-part=\"gains\"] .column_header text')].map(n => n.textContent).join()"
    wait_until(driver, f"{heads} === '12 steps'")
    driver.execute_script("document.querySelector('#gains input[value=\"20\"]').click()")
    wait_until(driver, f"{heads} === '20 steps'")


def test_the_table_is_sorted_and_narrowed_down(opened):
    driver = opened()
    heads = "#all th[aria-sort]"

    def means() -> list[float]:
        column = driver.execute_script(
            "return [...document.querySelectorAll('#all tbody tr:not([hidden])')]"
            ".map(row => row.cells[arguments[0]].firstChild.textContent)",
            driver.execute_script("return document.querySelector('#all button[data-key=psnr]').parentNode.cellIndex"),
        )
        return [float(text.replace("−", "-")) for text in column if text != "–"]

    click(driver, find(driver, "#all button[data-key='psnr']"))
    assert find(driver, heads).get_attribute("aria-sort") == "descending"
    assert means() == sorted(means(), reverse=True)
    click(driver, find(driver, "#all button[data-key='psnr']"))
    assert find(driver, heads).get_attribute("aria-sort") == "ascending"
    assert means() == sorted(means())
    driver.execute_script("document.querySelector('#all input[value=\"12\"]').click()")
    budgets = driver.execute_script(
        "return [...document.querySelectorAll('#all tbody tr:not([hidden])')].map(row => row.dataset.budget ?? '')"
    )
    assert set(budgets) == {"12", ""}


def test_another_prompt_and_another_budget(opened):
    driver = opened()
    scroll_to(driver, "#videos")
    assert "1 of 2" in find(driver, ".prompt-bar option:checked").text
    click(driver, find(driver, "[aria-label='Next prompt']"))
    assert "2 of 2" in find(driver, ".prompt-bar option:checked").text
    driver.execute_script("document.querySelector('.transport input[value=\"8\"]').click()")
    card = find(driver, ".card[data-policy='teacache']")
    assert "There is no file showcase/01_teacache_08.mp4" in card.text
    assert len(find_all(driver, ".card[data-policy='calibrated'] .cell.computed")) == 8
    wait_until(driver, "[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")


def test_differences_are_those_of_the_same_frame(opened):
    """What is drawn is eight times the difference of the two videos' own pixels, at several frames."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver = opened(prefers_reduced_motion="reduce")
    scroll_to(driver, "#videos")
    wait_until(driver, "[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
    driver.execute_script("document.querySelector('input[value=\"difference\"]').click()")
    wait_until(driver, "document.querySelectorAll('.card canvas:not([hidden])').length === 15")
    for frame in (0, 8, 16):
        driver.execute_script(
            "const scrubber = document.querySelector('.scrub input'); scrubber.value = arguments[0];"
            "scrubber.dispatchEvent(new Event('input'))",
            frame,
        )
        wait_until(driver, f"document.querySelector('.scrub output').textContent === 'frame {frame + 1} of 17'")
        wait_until(driver, "[...document.querySelectorAll('video')].every(video => !video.seeking)")
        shown, expected = WebDriverWait(driver, PATIENCE, ignored_exceptions=[AssertionError]).until(equal_means)
        assert expected > 70  # a quarter of all values is the opacity, 255


def equal_means(driver: Any) -> tuple[float, float]:
    """Means of what is drawn and of what should be, which have to become equal once the frame is painted."""
    shown, expected = driver.execute_script(
        """
        const read = (source, width, height) => {
          const canvas = Object.assign(document.createElement("canvas"), { width, height });
          const context = canvas.getContext("2d");
          context.drawImage(source, 0, 0, width, height);
          return context.getImageData(0, 0, width, height).data;
        };
        const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
        const video = document.querySelector(".card[data-policy='pab'] video");
        const canvas = document.querySelector(".card[data-policy='pab'] canvas");
        const [width, height] = [video.videoWidth, video.videoHeight];
        const uncached = document.querySelector(".card[data-policy='uncached'] video");
        const [own, other] = [video, uncached].map((node) => read(node, width, height));
        const amplified = (value, index) => Math.min(255, 8 * Math.abs(value - other[index]));
        const expected = [...own].map((value, index) => (index % 4 === 3 ? 255 : amplified(value, index)));
        return [mean([...read(canvas, width, height)]), mean(expected)];
        """
    )
    assert shown == pytest.approx(expected, abs=2)
    return shown, expected


def test_dark_and_light(opened):
    read = "return getComputedStyle(document.body).backgroundColor"
    assert opened(prefers_color_scheme="light").execute_script(read) == "rgb(255, 255, 255)"
    assert opened(prefers_color_scheme="dark").execute_script(read) == "rgb(18, 21, 25)"
