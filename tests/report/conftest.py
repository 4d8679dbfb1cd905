"""Pages in a real browser: headless Chromium, driven by Playwright, one for all tests of this folder.

Chromium is the system's (Debian: `apt-get install chromium`); nothing is downloaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DESK = {"width": 1280, "height": 900}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the tests of pages need playwright")
    if CHROMIUM is None:
        pytest.skip("the tests of pages need chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def visit(browser):
    """Open pages; fail where one logs an error or asks for anything but its own file."""
    contexts, faults = [], []

    def opened(path: Path, **options):
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url == path.as_uri() or faults.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
