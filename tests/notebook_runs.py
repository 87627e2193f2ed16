"""Executing a notebook the way its tests and its refreshing do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
LONGEST = 900  # seconds for one cell, on a machine that does other things too


def execute(path: Path, memory: int | None = None) -> tuple[nbformat.NotebookNode, float]:
    """Run a notebook from top to bottom, panels at rest; returns it with its outputs, and the seconds it took.

    Args:
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
