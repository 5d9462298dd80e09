"""Headless Chromium on a running UI. ``MIST_SCREENSHOTS=folder`` keeps pictures of pages."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .serving import wait_until

DRIVEN = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="there is no Chromium with its driver"),
]

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1600,1000",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that draws WebGL without a graphics card."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
    options = selenium.ChromeOptions()
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def text(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def show(browser: Any, url: str, *expected: str) -> None:
    browser.get(url)
    wait_until(lambda: all(word in text(browser) for word in expected))


def click(browser: Any, label: str) -> None:
    xpath = f"//*[normalize-space(text())='{label}']"
    wait_until(lambda: browser.find_elements("xpath", xpath))[0].click()


def keep(browser: Any, name: str) -> None:
    if "MIST_SCREENSHOTS" in os.environ:
        time.sleep(1)  # dialogs fade in
        browser.save_screenshot(str(Path(os.environ["MIST_SCREENSHOTS"]) / f"{name}.png"))
