"""Executing a notebook the way its tests and its refreshing do, and reading the numbers that its text quotes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
LONGEST = 900  # seconds for one cell, on a machine that does other things too
# A number (or a word) of the text, and behind it, in a comment, what it must be equal to: 92%<!--learned ±4-->
QUOTED = re.compile(r"((?:(?<!\w)-)?[\d][\d,]*\.?\d*|\w+)(%?)<!--(.+?)(?: ±([\d.]+))?-->")


def execute(
    path: Path, watch: Callable[[NotebookClient], None] | None = None, memory: int | None = None
) -> tuple[nbformat.NotebookNode, float]:
    """Run a notebook from top to bottom, panels at rest; returns it with its outputs, and the seconds it took.

    Args:
        watch: Called with the client while its kernel still lives.
        memory: Bytes of data that the kernel may hold, and then on one core only, as each thread holds some of its own.
    """
    notebook = nbformat.read(path, as_version=4)
    kept = {name: os.environ.get(name) for name in ("SMFT_LAB_RUNNER", "HF_HUB_OFFLINE")}
    os.environ |= {"SMFT_LAB_RUNNER": "inline", "HF_HUB_OFFLINE": "1"}
    try:
        client = NotebookClient(
            notebook, timeout=LONGEST, store_widget_state=False, resources={"metadata": {"path": str(path.parent)}}
        )
        with client.setup_kernel():
            if memory is not None:
                for limit in (
                    f"__import__('resource').setrlimit(__import__('resource').RLIMIT_DATA, ({memory}, {memory}))",
                    "__import__('os').sched_setaffinity(0, [min(__import__('os').sched_getaffinity(0))])",
                ):
                    assert ask_kernel(client, limit) == "None"
            began = time.monotonic()
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
            seconds = time.monotonic() - began
            if watch is not None:
                watch(client)
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)  # its model is gone
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook, seconds


def ask_kernel(client: NotebookClient, expression: str) -> str:
    """What an expression is in the notebook's kernel, as text; what it raises, if it does."""
    reply = client.kc.execute("pass", user_expressions={"asked": expression}, reply=True, timeout=60)
    if hasattr(reply, "__await__"):
        from jupyter_core.utils import ensure_async, run_sync

        reply = run_sync(ensure_async)(reply)
    answer = reply["content"]["user_expressions"]["asked"]
    return answer["data"]["text/plain"] if answer["status"] == "ok" else f"{answer['ename']}: {answer['evalue']}"


def wrong_claims(client: NotebookClient) -> list[str]:
    """The numbers in the text that are not what the cells have computed."""
    wrong = []
    for cell in client.nb.cells:
        if cell.cell_type != "markdown":
            continue
        for number, percent, expression, tolerance in QUOTED.findall(cell.source):
            found = ask_kernel(client, expression)
            if not _agree(number, percent, found, float(tolerance or 0)):
                wrong.append(f"{number}{percent} in the text, but {expression} is {found}")
    return wrong


def write_claims(client: NotebookClient) -> None:
    """Put what the cells have computed into the text, so that a page never says another number than its outputs.

    A number keeps its decimals; a claim that is no number stays, and is `wrong_claims`' to find.
    """

    def written(match: re.Match) -> str:
        number, percent, expression, _ = match.groups()
        value, decimals = _value(ask_kernel(client, expression)), len(number.partition(".")[2])
        if value is None or not number.strip("-")[:1].isdigit():
            return match[0]
        shown = 100 * value if percent else value
        return f"{shown:,.{decimals}f}{percent}{match[0][match[0].index('<!--') :]}"

    for cell in client.nb.cells:
        if cell.cell_type == "markdown":
            cell.source = QUOTED.sub(written, cell.source)


def _value(found: str) -> float | None:
    """The number that an expression is, as the kernel writes it: np.float64(0.5) too."""
    try:
        return float(re.sub(r"^\w[\w.]*\((.*)\)$", r"\1", found))
    except ValueError:
        return None


def _agree(quoted: str, percent: str, found: str, tolerance: float) -> bool:
    value = _value(found)
    if value is None or not quoted.strip("-")[:1].isdigit():
        return found == "True"
    said = float(quoted.replace(",", ""))
    decimals = len(quoted.partition(".")[2])
    return abs(100 * value - said if percent else value - said) <= max(tolerance, 0.5 * 10**-decimals) + 1e-9
