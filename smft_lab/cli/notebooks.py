"""`smft-lab lab`: the notebooks, in JupyterLab or as pages without code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smft_lab.terminal import say


def open_notebooks(
    pages: Annotated[bool, typer.Option("--app", help="Pages without code (Voila) instead of JupyterLab.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="If it is taken, a free one is used.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Copy the notebooks here first; your files stay.")] = None,
) -> None:
    """Open the notebooks in JupyterLab; Ctrl-C stops it."""
    from smft_lab import launch

    server = "Voila" if pages else "JupyterLab"
    if problem := launch.missing(server):
        for line in f"smft-lab: {problem}".splitlines():
            say(line)
        raise typer.Exit(1)
    first, notes = launch.prepare(folder)
    for line in notes:
        say(line)
    say(f"starting {server}; Ctrl-C stops it")
    launch.serve(first, pages, not no_browser, port)
