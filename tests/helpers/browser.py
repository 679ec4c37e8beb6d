"""Real headless Chromium, the system's own, through Playwright; why there is none, where there is none."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60  # generous: a busy machine is no failure
FLAGS = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
FLAGS += ("--auto-select-desktop-capture-source=Entire screen", "--hide-scrollbars", "--disable-gpu", "--no-sandbox")


def find() -> str | None:
    """The browser's program; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def lacking() -> str:
    """What browser tests lack and how to get it; empty where they can run."""
    if find() is None:
        return "no Chromium or Chrome on the PATH (Debian: apt install chromium)"
    return "" if find_spec("playwright") else "no playwright (pip install -e .[test])"


@contextmanager
def chromium(camera: Path | None = None) -> Iterator:
    """A Playwright browser. `camera` is a .mjpeg or .y4m file that plays as its camera."""
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *([f"--use-file-for-fake-video-capture={camera}"] if camera else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=flags)
        yield browser
        browser.close()


def wait(page, expression: str):
    """Poll until an expression holds in a page; its value. Playwright's own waiting needs scripts made of text, which
    the page forbids."""
    return wait_for(lambda: page.evaluate(expression), expression)


def wait_for(condition, what: str):
    """Poll until `condition()` is true; its value."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.05)
    return value
