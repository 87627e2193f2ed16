"""`smft-lab lab | compare | ask | page | attach | facts | patch | tune | pretrain | reproduce | ...`."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated, TextIO

import typer
from typer.core import TyperGroup

from smft_lab import __version__
from smft_lab.cli.ask import ask
from smft_lab.cli.attach import attach
from smft_lab.cli.bench import bench
from smft_lab.cli.compare import compare, tune
from smft_lab.cli.facts import make_facts
from smft_lab.cli.notebooks import open_notebooks
from smft_lab.cli.page import make_page
from smft_lab.cli.patch import patches
from smft_lab.cli.pretrain import pretrain
from smft_lab.cli.reproduce import reproduce
from smft_lab.cli.study import study
from smft_lab.terminal import console, say, to_nowhere

COMMANDS = {
    "lab": open_notebooks,
    "compare": compare,
    "ask": ask,
    "page": make_page,
    "attach": attach,
    "facts": make_facts,
    "patch": patches,
    "tune": tune,
    "pretrain": pretrain,
    "reproduce": reproduce,
    "study": study,
    "bench": bench,
}
"""In the order in which people need them."""


class Commands(TyperGroup):
    """The commands in their order, which a group among them would break."""

    def list_commands(self, ctx) -> list[str]:
        return sorted(super().list_commands(ctx), key=list(COMMANDS).index)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a language model new facts, and watch what it forgets.",
)
for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def _tell_version(asked: bool) -> None:
    if asked:
        console.print(f"smft-lab {__version__}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
]


@app.callback(no_args_is_help=True)
def _options(version: VersionOption = False) -> None:
    pass


def _is_unread(stream: TextIO) -> bool:
    """Whether nobody reads any more what is still to be written to a stream."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def main() -> None:
    """Entry point: bad input is one line and exit code 2, never a traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal has no sign for is spelled out, and never ends the work
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (ValueError, OSError) as problem:
        if isinstance(problem, BrokenPipeError) and _is_unread(sys.stdout):
            to_nowhere(sys.stdout)
            sys.exit(1)
        say(f"smft-lab: {' '.join(str(problem).split())}")
        sys.exit(2)
