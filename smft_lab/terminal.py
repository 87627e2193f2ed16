"""What the commands write while they work: to standard error, so that standard output holds results alone."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


def progress_bar(shown: bool = True) -> Progress:
    """Done of all, time so far and time left, for long work."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


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
