"""A browser for all tests of this folder; they are skipped where there is none."""

import os
import shutil

import pytest
from panel_page import PanelPage

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
]


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine; install it, or name it in CHROMIUM")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def shown(browser):
    """Shows a panel in a page of its own; at the end the page must have raised no error."""
    opened = []

    def show(panel, width=1100, theme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(5000)
        opened.append(PanelPage(page, panel, theme))
        return opened[-1]

    yield show
    for one in opened:
        assert one.errors == []
        one.panel.close()
        one.page.close()
