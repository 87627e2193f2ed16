"""A real JupyterLab on a free port, with all it writes in a temporary folder, and a browser page that drives it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
READY = """async () => {
  const app = window.jupyterapp, end = Date.now() + 60000;
  await app.restored;
  for (;;) {
    const panel = app.shell.currentWidget;
    if (panel && panel.sessionContext) {
      await panel.context.ready;
      await panel.sessionContext.ready;
      if (panel.sessionContext.session?.kernel?.status === 'idle') return;
    }
    if (Date.now() > end) throw new Error('no kernel');
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.model.toJSON().cells.flatMap((cell, i) =>
  (cell.outputs || []).filter(out => out.output_type === 'error')
    .map(out => `cell ${i}: ${out.ename}: ${out.evalue}`))"""
KERNEL = """async (code) => {
  let out = '';
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false});
  future.onIOPub = message => {
    if (message.header.msg_type === 'stream') out += message.content.text;
    if (message.header.msg_type === 'error') out += message.content.ename + ': ' + message.content.evalue;
  };
  await future.done;
  return out;
}"""


class Server:
    """JupyterLab as a subprocess; `notebooks` maps names to the sources of their code cells."""

    def __init__(self, notebooks: dict[str, list[str]]):
        self.folder = Path(tempfile.mkdtemp(prefix="lab-"))
        work = self.folder / "work"
        work.mkdir()
        for name, cells in notebooks.items():
            (work / name).write_text(json.dumps(_notebook(cells)))
        config = self.folder / "config" / "labconfig"
        config.mkdir(parents=True)
        (config / "default_setting_overrides.json").write_text(json.dumps(QUIET))
        env = dict(os.environ, IPYTHONDIR=str(self.folder / "ipython"))
        env |= {f"JUPYTER_{name}_DIR": str(self.folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        env |= {f"JUPYTERLAB_{name}_DIR": str(self.folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
        self.log = self.folder / "server.log"
        options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
        options += [f"--ServerApp.root_dir={work}", "--LabApp.expose_app_in_browser=True"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.address, self.token = self._wait()

    def _wait(self) -> tuple[str, str]:
        until = time.monotonic() + 90
        while time.monotonic() < until and self.process.poll() is None:
            for file in (self.folder / "runtime").glob("jpserver-*.json"):
                try:
                    about = json.loads(file.read_text())
                    status = f"{about['url']}api/status?token={about['token']}"
                    if urllib.request.urlopen(status, timeout=2).status == 200:
                        return about["url"].rstrip("/"), about["token"]
                except (ValueError, OSError):
                    pass  # half written, or not listening yet
            time.sleep(0.05)
        self.stop()
        raise RuntimeError("JupyterLab did not start")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # the server ends its kernels itself
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Notebook:
    """One notebook open in the browser.

    Attributes:
        foreign: Requests that left this machine.
        errors: Errors of the page's JavaScript.
    """

    def __init__(self, server: Server, page):
        self.server, self.page, self.foreign, self.errors = server, page, [], []
        own = (server.address, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else self.foreign.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def run(self, name: str) -> None:
        """Open it, and run every cell."""
        address = f"{self.server.address}/lab/tree/{name}?reset&token={self.server.token}"
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.wait_for_function("() => window.jupyterapp")
        self.page.evaluate(READY)
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        assert self.page.evaluate(ERRORS) == []

    def kernel(self, code: str) -> str:
        """What `code` prints in the notebook's kernel."""
        return self.page.evaluate(KERNEL, code).strip()

    def drag(self, handle, to: float) -> None:
        """Drag a native range slider to a share of its width."""
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        now = float(handle.input_value()) / float(handle.get_attribute("max"))
        y, left, width = box["y"] + box["height"] / 2, box["x"] + 8, box["width"] - 16
        self.page.mouse.move(left + now * width, y)
        self.page.mouse.down()
        self.page.mouse.move(left + to * width, y, steps=8)

    def shot(self, name: str) -> None:
        """Keep a picture, if SMFT_LAB_SHOTS names a folder."""
        if "SMFT_LAB_SHOTS" in os.environ:
            folder = Path(os.environ["SMFT_LAB_SHOTS"])
            folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=folder / f"{name}.png")


def _notebook(cells: list[str]) -> dict:
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return {
        "cells": [{**code, "id": f"cell-{i}", "source": source} for i, source in enumerate(cells)],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
