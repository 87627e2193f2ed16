"""Who advances a finetune while a person looks on. A panel hands over an iterator, and gets shown its newest item.

A cell or a callback never waits for training: in JupyterLab, Notebook, VS Code and on Binder a worker thread advances
it; in Colab, where what a thread publishes does not reach the screen, a timer in the browser does; in tests and under
`nbclient` it runs to its end at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from smft_lab.kernel import in_kernel
from smft_lab.model.locking import give_way

SHOWN_EVERY = 0.1  # seconds between two items shown
TICK = 0.25  # seconds of work per tick of the browser's timer

Show = Callable[[Any], None]
Ended = Callable[[BaseException | None], None]


class Runner:
    """Advances one iterator at a time.

    Args:
        lock: Held while an item is computed, so that a question can be asked between two of them.
    """

    ticks = False  # whether the browser has to call `tick`

    def __init__(self, lock: threading.RLock):
        self.lock = lock
        self._stop = threading.Event()

    def start(self, items: Iterator, show: Show, ended: Ended) -> None:
        """Begin to advance `items`; `show` gets the newest at most ten times a second, `ended` what stopped it."""
        self._stop.clear()
        self._items, self._show, self._ended = items, show, ended
        self._shown, self._waiting = 0.0, None
        self._go()

    def stop(self) -> None:
        """Stop asking for items; returns once nothing is being computed."""
        self._stop.set()

    def tick(self) -> None:
        """Work for a moment; only where the browser keeps time."""

    def _go(self) -> None:
        raise NotImplementedError

    def _work(self, seconds: float = float("inf")) -> bool:
        """Advance until there is nothing left, or a stop, or `seconds` have passed; True if there may be more."""
        until, problem = time.monotonic() + seconds, None
        try:
            while not self._stop.is_set():
                with self.lock:
                    self._waiting = next(self._items)
                now = time.monotonic()
                if now - self._shown >= SHOWN_EVERY:
                    self._flush()
                if now >= until:
                    self._flush()
                    return True
        except StopIteration:
            pass
        except BaseException as raised:  # Ctrl-C too, where the work is done in a cell
            problem = raised
        self._flush()
        self._ended(problem)
        if problem is not None and not isinstance(problem, Exception):
            raise problem
        return False

    def _flush(self) -> None:
        item, self._waiting = self._waiting, None
        if item is not None:
            self._show(item)
            self._shown = time.monotonic()


class InlineRunner(Runner):
    """Runs to the end before it returns."""

    def _go(self) -> None:
        self._work()


def release_idle_threads() -> None:
    """End the OpenMP threads that torch keeps for the calling thread; they come back when it next computes.

    A worker thread gets a pool of its own. While both exist there are more threads than cores, and GNU's OpenMP then
    puts threads to sleep at every barrier, which costs a small model half its speed. Does nothing without that library.
    """
    for path in Path(torch.__file__).parent.glob("lib/libgomp*.so*"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(path)).omp_pause_resource_all(1)  # omp_pause_soft: settings stay


class ThreadRunner(Runner):
    """A worker thread per run; there is none while nothing runs."""

    _thread: threading.Thread | None = None

    def _go(self) -> None:
        release_idle_threads()
        self._thread = threading.Thread(target=self._work, name="smft-lab training", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        super().stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            give_way(self.lock, lambda: not thread.is_alive())  # the caller may have the lock that it waits for


class TickRunner(Runner):
    """Works for a quarter of a second whenever the browser calls."""

    ticks = True
    _more = False

    def _go(self) -> None:
        self._more = True

    def tick(self) -> None:
        if self._more:
            self._more = self._work(TICK)

    def stop(self) -> None:
        super().stop()
        self.tick()  # tells `ended`


RUNNERS = {"inline": InlineRunner, "thread": ThreadRunner, "tick": TickRunner}


def runner_name() -> str:
    """The runner that suits where this runs; the environment variable SMFT_LAB_RUNNER overrules it.

    Raises:
        ValueError: SMFT_LAB_RUNNER names none.
    """
    asked = os.environ.get("SMFT_LAB_RUNNER")
    if asked:
        if asked not in RUNNERS:
            raise ValueError(f"SMFT_LAB_RUNNER is {asked!r}; there are {', '.join(RUNNERS)}")
        return asked
    if "google.colab" in sys.modules:
        return "tick"
    return "thread" if in_kernel() else "inline"
