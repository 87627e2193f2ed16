"""`smft-lab ask`: what a lab's model answers, with what patches have taught it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smft_lab.cli.options import InputOption, LabOption
from smft_lab.cli.patch import ConflictOption, OnConflict, read_patches
from smft_lab.terminal import say


def ask(
    questions: Annotated[list[str], typer.Argument(help="What to ask, each in quotes.")],
    lab: LabOption = None,
    patch: Annotated[
        list[Path] | None, InputOption("--patch", help="A patch to ask with, beside the base; may be given again.")
    ] = None,
    on_conflict: ConflictOption = OnConflict.refuse,
) -> None:
    """Ask the base, and with patches what it then answers."""
    from smft_lab.lab import load
    from smft_lab.slots.combine import hold

    patches = read_patches(patch or [])
    opened = load(lab)
    before = opened.answer(questions)
    after = before
    if patches:
        hold(opened, patches, on_conflict=on_conflict.value)
        after = opened.answer(questions)
    for question, base, taught in zip(questions, before, after, strict=True):
        lines = [question, f"  base:   {base}", f"  taught: {taught}"] if patches else [question, f"  {base}"]
        for line in lines:
            say(line)
