"""Chromium for tests that look at a page: it writes down its console and what it loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--autoplay-policy=no-user-gesture-required",
)
PATIENCE = 15  # seconds


def open_chromium(profile: Path) -> Any:
    """A browser of its own profile; a test that asks for it is skipped where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium or its driver is missing: apt install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.set_script_timeout(PATIENCE)
    return browser


def set_size(driver: Any, width: int, height: int) -> None:
    """The size of what is seen of a page, in pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def addresses_loaded(driver: Any) -> list[str]:
    """What was loaded since this was asked last."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]


def wait_until(driver: Any, expression: str, seconds: float = PATIENCE) -> Any:
    """Wait for a JavaScript expression to be true; its value."""
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(driver, seconds, poll_frequency=0.05)
    return waiting.until(lambda browser: browser.execute_script(f"return {expression}"), f"never: {expression}")
