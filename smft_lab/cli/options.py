"""Options that several commands have, and what they hold: nothing here imports torch, so that bad ones are told at
once."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smft_lab.terminal import say

if TYPE_CHECKING:
    from smft_lab.facts.fact import Fact
    from smft_lab.facts.public.datasets import Question

STANDARD = "sparse,full,lora"  # as of smft_lab.finetuning.methods, which takes seconds to import
OTHER_METHODS = "replay, osf"  # likewise


def _there(given: Path | list[Path] | None) -> Path | list[Path] | None:
    for path in given if isinstance(given, list) else filter(None, [given]):
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file; check its name and folder")
    return given


def _lab_there(path: Path | None) -> Path | None:
    if path is not None and not path.exists() and not any(path.parent.glob(f".{glob.escape(path.name)}.*")):
        raise FileNotFoundError(f"{path}: no lab.json there; a saved lab is a directory written by Lab.save()")
    return path


InputOption, InputArgument = partial(typer.Option, callback=_there), partial(typer.Argument, callback=_there)
"""For files that are read: a missing one is told at once, and not after the seconds that torch takes to load."""
SavedLabOption = partial(typer.Option, callback=_lab_there)
"""For labs that are opened, likewise. What a killed save left beside the place of a lab is one, too."""

KindOption = Annotated[
    str | None, typer.Option("--kind", help="What the file of facts is, if it can't be told: alpaca, ...")
]
LabOption = Annotated[Path | None, SavedLabOption("--lab", help="A saved lab; the shipped one if absent.")]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="NAME|FIELD=VALUE", help="A recipe, or a switch of one, as floor=0; several."),
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, or cuda for a GPU.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what --out holds already.")]


def names_in(text: str, option: str) -> list[str]:
    """The names in a list with commas, as in `--methods sparse,full`.

    Raises:
        ValueError: there is none, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"{option} is empty; name at least one")
    if len(set(names)) < len(names):
        raise ValueError(f"{option} names one twice: {text}")
    return names


def numbers_in(text: str, option: str) -> list[int]:
    """The numbers in a list with commas, as in `--layers 2,5`.

    Raises:
        ValueError: there is none, one twice, or one that is no whole number.
    """
    names = names_in(text, option)
    for name in names:
        if not name.removeprefix("-").isdecimal():
            raise ValueError(f"{option} takes whole numbers, as in 2,5; not {name!r}")
    return [int(name) for name in names]


def check_kind(kind: str | None, facts: Path | None) -> None:
    """Raise ValueError if --kind is given without the file that it is of."""
    if kind is not None and facts is None:
        raise ValueError("--kind says what the file of --facts is; give that too")


def facts_in(file: Path, kind: str | None = None) -> list[Fact]:
    """A person's own facts; what is to be known of their wordings is told."""
    from smft_lab.facts.files import check_paraphrases, read_facts

    facts = read_facts(file, kind)
    if note := check_paraphrases(facts):
        say(f"note: {note}")
    return facts


def questions_in(file: Path, kind: str | None = None) -> list[Fact | Question]:
    """Questions with answers, from a question set or a file of facts, which is of that kind if it can't be told.

    Raises:
        ValueError: there are none with short answers.
    """
    from smft_lab.facts.public.datasets import read_dataset

    read = read_dataset(file, kind)
    questions = [*read.facts, *read.questions]
    if not questions:
        raise ValueError(f"{file} holds no questions with short answers ({read.report})")
    return questions


@contextmanager
def resumable(where: str) -> Iterator[None]:
    """Around work that Ctrl-C stops, and the same command takes up again from `where`."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on from {where}")
        raise typer.Exit(130) from None
