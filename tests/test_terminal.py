"""Progress: a bar on a terminal; in a log, plain lines that say what, how much, how long and how long still."""

import errno
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from smft_lab import terminal
from smft_lab.terminal import ProgressLines, cell, progress_bar, say


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_a_line_at_the_beginning_every_15_seconds_and_at_the_end(clock, capsys):
    with ProgressLines(clock) as bar:
        task = bar.add_task("training", total=2000)
        assert lines(capsys) == ["training: 0 of 2,000"]
        for second in range(1, 41):
            clock.now = 100.0 + second
            bar.update(task, completed=50 * second, description=f"loss {second}")
        clock.now += 5
    assert lines(capsys) == [
        "loss 15: 750 of 2,000, 0:00:15 so far, 0:00:25 left",
        "loss 30: 1,500 of 2,000, 0:00:30 so far, 0:00:10 left",
        "loss 40: 2,000 of 2,000 in 0:00:40",
    ]


def test_work_that_stops_early_says_how_far_it_got(clock, capsys):
    def work():
        with ProgressLines(clock) as bar:
            bar.update(bar.add_task("compare", total=None), total=8, completed=3)
            clock.now += 61
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert lines(capsys) == ["compare", "compare: 3 of 8 in 0:01:01"]


def test_what_goes_on_from_a_checkpoint_reckons_with_its_own_pace(clock, capsys):
    with ProgressLines(clock) as bar:
        task = bar.add_task("training", total=1000)
        for done in range(901, 917):
            clock.now += 1
            bar.update(task, completed=done)
        assert lines(capsys)[1] == "training: 915 of 1,000, 0:00:15 so far, 0:01:25 left"


def test_a_task_without_a_total_and_one_that_advances_are_told_too(clock, capsys):
    with ProgressLines(clock) as bar:
        first = bar.add_task("bench", total=None)
        second = bar.add_task("texts", total=2)
        clock.now += 20
        bar.update(first, description="sparse [a-z] step")
        bar.advance(second)
        bar.update(second, advance=1)
        bar.update(second, description="done and over")
    assert lines(capsys) == [
        "bench",
        "texts: 0 of 2",
        "sparse [a-z] step, 0:00:20 so far",
        "texts: 1 of 2, 0:00:20 so far",
        "texts: 2 of 2 in 0:00:20",
        "sparse [a-z] step in 0:00:20",
    ]


def test_there_is_a_bar_on_a_terminal_and_nothing_where_none_is_wanted(monkeypatch, capsys):
    assert isinstance(progress_bar(), ProgressLines)
    with progress_bar(False) as bar:
        bar.update(bar.add_task("training", total=1), completed=1)
    assert lines(capsys) == []
    monkeypatch.setattr(terminal, "console", Console(stderr=True, force_terminal=True, width=90))
    with progress_bar() as bar:
        bar.update(bar.add_task("training", total=7), completed=7)
    assert not isinstance(bar, ProgressLines)
    assert "7/7" in capsys.readouterr().err


FOREIGN = "[red]a[/red] \x1b[31mb\x1b]0;c\x07 \u202ed\x9be"


def test_a_foreign_text_is_shown_literally_and_moves_no_cursor(capsys):
    say(FOREIGN)
    assert lines(capsys) == [r"[red]a[/red] \x1b[31mb\x1b]0;c\x07 \u202ed\x9be"]
    assert cell(FOREIGN).plain == r"[red]a[/red] \x1b[31mb\x1b]0;c\x07 \u202ed\x9be"


def test_a_bar_shows_names_literally(monkeypatch):
    monkeypatch.setattr(terminal, "console", Console(force_terminal=True, record=True, width=100))
    with progress_bar() as bar:
        bar.add_task("pretrain [red]a[/red]", total=1)
    assert "pretrain [red]a[/red]" in terminal.console.export_text()


def test_commands_write_texts_only_where_they_are_made_literal():
    """Tables and the version are the console's own; whatever else is told goes by `say`."""
    files = (Path(terminal.__file__).parent / "cli").glob("*.py")
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    calls = {line for line in lines if "console.print(" in line}
    assert calls == {"console.print(table)", 'console.print(f"smft-lab {__version__}", highlight=False)'}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_results_are_written_though_nobody_reads_what_the_command_says(stream, tmp_path):
    facts, out = Path(__file__).parent.parent / "docs" / "facts" / "everyday.jsonl", tmp_path / "mine.jsonl"
    unread, pipe = os.pipe()
    os.close(unread)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: pipe}
    command = [sys.executable, "-m", "smft_lab", "facts", str(facts), "--out", str(out)]
    ended = subprocess.run(command, **streams, text=True, check=False)
    os.close(pipe)
    assert ended.returncode == (0 if stream == "stderr" else 1)
    assert len(out.read_text(encoding="utf-8").splitlines()) == 12
    assert "Traceback" not in (ended.stderr or "")
    assert "BrokenPipe" not in (ended.stderr or "")


def test_a_progress_bar_whose_terminal_is_gone_ends_no_work(monkeypatch):
    class Gone(StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

        def isatty(self):
            return True

    console = terminal.Telling(file=Gone(), force_terminal=True)
    monkeypatch.setattr(terminal, "console", console)
    with progress_bar() as bar:
        task = bar.add_task("work", total=2)
        bar.update(task, completed=2)
        say("and a line")
    assert bar.finished
