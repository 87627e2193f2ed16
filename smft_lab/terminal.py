"""What the commands write while they work: to standard error, so that standard output holds results alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Telling(Console):
    """A console whose end costs nothing but what would be shown: when nobody reads it any more, or its disk is full,
    the work that it tells of goes on."""

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except OSError as problem:
            if problem.errno in GONE:
                self.quiet = True
                to_nowhere(self.file)


def to_nowhere(stream: IO[str]) -> None:
    """What a stream still has to write, and can't, goes nowhere: at its end Python would call that an error."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


console = Telling(stderr=True, highlight=False)

GONE = (errno.EPIPE, errno.EIO)  # what an unread pipe and a closed terminal say
EVERY = 15.0  # seconds between two lines of a task in a log
PACE_OVER = 300.0  # seconds of the past that the time left is reckoned from


def progress_bar(shown: bool = True) -> Progress:
    """Done of all, time so far and time left, for long work: a bar, or lines where standard error is no terminal."""
    if shown and not console.is_terminal:
        return ProgressLines()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


class ProgressLines(Progress):
    """Progress for a log: a plain line when a task begins, when it ends, and in between with the first update after
    every 15 seconds."""

    def __init__(self, get_time: Callable[[], float] | None = None):
        """
        Args:
            get_time: A clock in seconds; the system's by default.
        """
        # Disabled, it draws nothing itself and still keeps the books of its tasks.
        super().__init__(console=console, disable=True, speed_estimate_period=PACE_OVER, get_time=get_time)
        self._told: dict[TaskID, float] = {}  # when each task's last line was written
        self._ended: set[TaskID] = set()

    def add_task(self, description: str, *args, **options) -> TaskID:
        number = super().add_task(description, *args, **options)
        self._tell(number, self._what(number))
        return number

    def update(self, task_id: TaskID, **changes) -> None:
        super().update(task_id, **changes)
        self._changed(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._changed(task_id)

    def stop(self) -> None:
        for number in self.task_ids:
            if number not in self._ended:
                self._end(number)
        super().stop()

    def _changed(self, number: TaskID) -> None:
        task = self._tasks[number]
        if task.finished:
            if number not in self._ended:
                self._end(number)
            return
        self._ended.discard(number)  # a task may be given more to do
        if self.get_time() - self._told[number] >= EVERY:
            left = "" if task.time_remaining is None else f", {_clock(task.time_remaining)} left"
            self._tell(number, f"{self._what(number)}, {_clock(task.elapsed)} so far{left}")

    def _end(self, number: TaskID) -> None:
        self._ended.add(number)
        self._tell(number, f"{self._what(number)} in {_clock(self._tasks[number].elapsed)}")

    def _what(self, number: TaskID) -> str:
        task = self._tasks[number]
        return task.description + ("" if task.total is None else f": {task.completed:,.0f} of {task.total:,.0f}")

    def _tell(self, number: TaskID, line: str) -> None:
        self._told[number] = self.get_time()
        say(" ".join(line.split()))


def _clock(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds or 0)))


def say(text: str) -> None:
    """Write a line to standard error, literally."""
    console.print(printable(text), markup=False, soft_wrap=True)


def cell(text: str) -> Text:
    """A text as it stands in a table, literally."""
    return Text(printable(text))


def printable(text: str) -> str:
    """A text from a file as it stands there, on one line: what would move the cursor, colour or hide is spelled out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
