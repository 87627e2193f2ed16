"""The pages without code in a real Voila: a front page, cells as soon as they are done, and nothing from a network."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.skipif(not find_spec("voila"), reason="needs the extra `app`")
SHOTS = os.environ.get("SMFT_LAB_SHOTS")
SLOW = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Waits"},
        *(
            {"cell_type": "code", "id": name, "metadata": {}, "execution_count": None, "outputs": [], "source": source}
            for name, source in (
                ("b", "print('the first is done')"),
                ("c", "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)"),
                ("d", "print('the last is done')"),
            )
        ),
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the front page; beside the notebooks there is one that waits for a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("voila")
    (home / "notes").mkdir()
    (home / "notes" / "waits.ipynb").write_text(json.dumps(SLOW))
    env = dict(os.environ) | {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("RUNTIME", "CONFIG")}
    command = [sys.executable, "-m", "smft_lab.cli", "lab", "--app", "--no-browser", "--folder", "notes"]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, "--port", str(port)], cwd=home, env=env, **out) as process:
        url = next(found[0] for line in process.stdout if (found := re.findall(r"http://\S+token=[0-9a-f]+", line)))
        yield url, home, psutil.Process(process.pid)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()


@pytest.fixture
def front(browser, address):
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(90_000)
    asked = []
    page.on("response", lambda answer: asked.append(answer.url))
    page.goto(address[0])
    yield page
    assert {url.split("/")[2].partition(":")[0] for url in asked if url.startswith("http")} <= {
        "localhost",
        "127.0.0.1",
    }
    page.context.close()


def shot(page, name):
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def test_the_front_page_leads_to_a_panel_that_is_live(front):
    shot(front, "voila-front")
    assert front.get_by_role("link").count() >= 6 + 6
    front.get_by_role("link", name="Top-t").click()
    slider = front.get_by_role("slider")
    slider.wait_for()
    before = front.locator(".preview").text_content()
    slider.focus()
    front.keyboard.press("Home")
    assert front.locator(".preview").text_content() != before
    shot(front, "voila-top_t")


def is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def test_a_page_that_is_closed_takes_its_kernel_along(front, address):
    def kernels() -> set[int]:
        return {child.pid for child in address[2].children(recursive=True) if is_kernel(child)}

    before = kernels()
    page = front.context.new_page()
    page.set_default_timeout(90_000)
    page.goto(front.url)
    page.get_by_role("link", name="Top-t").click()
    page.get_by_role("slider").wait_for()
    of_page = kernels() - before
    assert of_page
    page.close(run_before_unload=True)
    until = time.monotonic() + 30
    while of_page & kernels() and time.monotonic() < until:
        time.sleep(0.2)
    assert not of_page & kernels()


def test_a_cell_is_shown_as_soon_as_it_is_done(front, address):
    front.get_by_role("link", name="waits").click()
    front.get_by_text("the first is done").wait_for()  # while the next waits for a file
    assert front.get_by_text("the last is done").count() == 0
    (address[1] / "notes" / "go").touch()
    front.get_by_text("the last is done").wait_for()
