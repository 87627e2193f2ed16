"""A runner shows the newest item, stops between items, and passes on what went wrong."""

import threading
import time

import pytest

from smft_lab.widgets import runners
from smft_lab.widgets.runners import RUNNERS, runner_name


class Watcher:
    """Keeps what a runner shows, and waits for its end."""

    def __init__(self):
        self.shown, self.problem, self.over = [], "not over", threading.Event()

    def show(self, item):
        self.shown.append(item)

    def ended(self, problem):
        self.problem = problem
        self.over.set()


@pytest.fixture(params=sorted(RUNNERS))
def runner(request):
    return RUNNERS[request.param](threading.RLock())


def drive(runner, watcher):
    """What the browser's timer does."""
    until = time.monotonic() + 10
    while not watcher.over.is_set() and time.monotonic() < until:
        runner.tick()
        watcher.over.wait(0.01)
    assert watcher.over.is_set()


def test_the_last_item_is_always_shown(runner):
    watcher = Watcher()
    runner.start(iter(range(1000)), watcher.show, watcher.ended)
    drive(runner, watcher)
    assert watcher.shown[-1] == 999
    assert watcher.problem is None


def test_items_are_shown_at_most_ten_times_a_second(runner, monkeypatch):
    monkeypatch.setattr(runners, "SHOWN_EVERY", 60.0)
    watcher = Watcher()
    runner.start(iter(range(1000)), watcher.show, watcher.ended)
    drive(runner, watcher)
    assert watcher.shown == [0, 999]


def test_what_goes_wrong_is_told_after_the_last_whole_item(runner):
    def failing():
        yield 1
        raise ValueError("no more")

    watcher = Watcher()
    runner.start(failing(), watcher.show, watcher.ended)
    drive(runner, watcher)
    assert watcher.shown == [1]
    assert str(watcher.problem) == "no more"


@pytest.mark.parametrize("name", ["thread", "tick"])
def test_stop_ends_an_endless_run_and_a_second_start_goes_on(name):
    def endless():
        number = 0
        while True:
            time.sleep(0.001)
            yield (number := number + 1)

    runner, items = RUNNERS[name](threading.RLock()), endless()
    for _ in range(2):
        watcher = Watcher()
        runner.start(items, watcher.show, watcher.ended)
        for _ in range(3):
            runner.tick()
            time.sleep(0.01)
        runner.stop()
        assert watcher.over.is_set()
        assert watcher.problem is None
        first, *_, last = [*watcher.shown, watcher.shown[-1]]
        assert first <= last
    assert next(items) == last + 1


def test_a_threaded_run_leaves_no_thread_behind():
    watcher = Watcher()
    runner = RUNNERS["thread"](threading.RLock())
    runner.start(iter(range(10)), watcher.show, watcher.ended)
    runner.stop()
    assert not [thread for thread in threading.enumerate() if "smft-lab" in thread.name]


def test_nothing_is_computed_while_the_lock_is_held():
    lock, watcher, items = threading.RLock(), Watcher(), []

    def count():
        for number in range(5):
            items.append(number)
            yield number

    runner = RUNNERS["thread"](lock)
    with lock:
        runner.start(count(), watcher.show, watcher.ended)
        time.sleep(0.05)
        assert items == []
    drive(runner, watcher)
    assert items == [0, 1, 2, 3, 4]


def test_the_environment_chooses_the_runner(monkeypatch):
    monkeypatch.setenv("SMFT_LAB_RUNNER", "tick")
    assert runner_name() == "tick"
    monkeypatch.setenv("SMFT_LAB_RUNNER", "tock")
    with pytest.raises(ValueError, match="there are inline, thread, tick"):
        runner_name()


def test_colab_gets_a_browser_timer_a_kernel_a_thread_and_plain_python_none(monkeypatch):
    monkeypatch.delenv("SMFT_LAB_RUNNER", raising=False)
    monkeypatch.setitem(runners.sys.modules, "google.colab", object())
    assert runner_name() == "tick"
    monkeypatch.delitem(runners.sys.modules, "google.colab")
    assert runner_name() == "inline"
    kernels = pytest.importorskip("ipykernel.kernelapp")
    assert runner_name() == "inline"  # the package alone makes no kernel
    monkeypatch.setattr(kernels.IPKernelApp, "_instance", object())
    assert runner_name() == "thread"
