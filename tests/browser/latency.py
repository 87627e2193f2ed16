"""How fast the top-t panel answers a hand, in a real JupyterLab and Chromium: `python tests/browser/latency.py`.

Times are taken in the page, from the event that the browser gives to the change that it draws, so that the network and
the kernel are in them. Medians and worst of several turns, beside what a person shouldn't have to wait for longer.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from conftest import CHROMIUM, FLAGS
from live_notebook import Notebook, Server
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

SCREEN = {"width": 1280, "height": 1050}
CELLS = [
    "import smft_lab as smft\nlab, facts = smft.load(), smft.new_facts({facts}, seed=3)",
    "panel = smft.widgets.TopT(lab, facts)\npanel.choose(passes={passes}{more})\npanel",
]
WATCH = """() => {
  const root = document.querySelector('.smft');
  window.seen = [];
  const note = (what) => window.seen.push({what, at: performance.now(), state: root.dataset.state,
    said: root.querySelector('.preview').textContent, points: root.querySelectorAll('svg circle').length});
  new MutationObserver(() => note('drawn')).observe(root,
    {subtree: true, childList: true, attributes: true, characterData: true});
  for (const event of ['input', 'change', 'click']) root.addEventListener(event, () => note(event), true);
}"""
MOVED, FIRST, DONE, STOPPED = (
    "slider moved: preview changed",
    "slider released: first point of the path",
    "slider released: all facts taught",
    "Stop clicked: stopped",
)
LIMITS = {MOVED: 150, FIRST: 500, DONE: 3000, STOPPED: 300}  # milliseconds


def after(seen: list[dict], event: str, holds: Callable[[dict, dict], bool]) -> float:
    """Milliseconds from the last event of that name to the first drawing that holds, given what was shown before."""
    at = max(i for i, one in enumerate(seen) if one["what"] == event)
    return next(one["at"] - seen[at]["at"] for one in seen[at:] if one["what"] == "drawn" and holds(one, seen[at]))


def running(seen: list[dict]) -> list[dict]:
    """Without what was drawn between letting go and the start of the run."""
    began = next(i for i, one in enumerate(seen) if one["state"] == "running")
    return [one for i, one in enumerate(seen) if one["what"] == "change" or i >= began]


def finetune(notebook: Notebook, to: float) -> dict[str, float]:
    """Drag the slider there, let go, and wait until all facts are taught."""
    page = notebook.page
    page.evaluate("() => { window.seen = [] }")
    notebook.drag(page.locator(".smft").get_by_role("slider"), to)
    page.mouse.up()
    page.wait_for_selector(".smft[data-state=running]")
    page.wait_for_selector(".smft[data-state=idle]")
    seen = page.evaluate("() => window.seen")
    return {
        MOVED: after(seen, "input", lambda now, then: now["said"] != then["said"]),
        FIRST: after(seen, "change", lambda now, then: now["points"] > then["points"]),
        DONE: after(running(seen), "change", lambda now, then: now["state"] == "idle"),
    }


def stop(notebook: Notebook) -> dict[str, float]:
    """Start once more, and stop half-way."""
    page = notebook.page
    page.locator(".smft").get_by_role("button", name="Teach").click()
    page.wait_for_selector(".smft[data-state=running]")
    page.wait_for_timeout(700)
    page.evaluate("() => { window.seen = [] }")
    page.locator(".smft").get_by_role("button", name="Stop").click()
    page.wait_for_selector(".smft[data-state=paused]")
    return {STOPPED: after(page.evaluate("() => window.seen"), "click", lambda now, then: now["state"] == "paused")}


def main(
    facts: Annotated[int, typer.Option(help="Built-in facts to teach.")] = 32,
    passes: Annotated[int, typer.Option(help="Passes over them.")] = 3,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the tuned one if absent.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Repeats.")] = 5,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    more = "" if lr is None else f", lr={lr}"
    server = Server({"latency.ipynb": [cell.format(facts=facts, passes=passes, more=more) for cell in CELLS]})
    took: dict[str, list[float]] = {}
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(viewport=SCREEN)
            page.set_default_timeout(60_000)
            notebook = Notebook(server, page)
            notebook.run("latency.ipynb")
            page.locator(".smft").wait_for()
            page.evaluate(WATCH)
            for i in range(turns):
                for what, ms in (finetune(notebook, 0.55 + 0.3 * (i % 2)) | stop(notebook)).items():
                    took.setdefault(what, []).append(ms)
                page.locator(".smft").get_by_role("button", name="Reset").click()
                page.wait_for_selector(".smft[data-state=idle]")
            learned = notebook.kernel("print([run['points'][-1][1:] for run in panel.runs][::2])")
    finally:
        server.stop()
    table = Table(title=f"Top-t panel, {facts} facts, {passes} passes, {turns} turns, {os.cpu_count()} cores")
    for column in ("milliseconds", "median", "worst", "wanted"):
        table.add_column(column, justify="left" if column == "milliseconds" else "right")
    for what, limit in LIMITS.items():
        table.add_row(what, f"{statistics.median(took[what]):.0f}", f"{max(took[what]):.0f}", f"{limit}")
    Console().print(table)
    Console().print(f"learned and old facts kept at the end of each: {learned}")
    if out is not None:
        out.write_text(json.dumps(took, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
