"""Progress: a bar on a terminal; in a log, plain lines that say what, how much, how long and how long still."""

import pytest
from rich.console import Console

from smft_lab import terminal
from smft_lab.terminal import ProgressLines, progress_bar


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
