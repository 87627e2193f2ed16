"""What the panels that train have in common: a training that is begun, waits, goes on, and ends or is given up."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Generator
from typing import Any

from smft_lab.facts.world.world import World
from smft_lab.finetuning.finetune import TakenOver
from smft_lab.lab import Lab
from smft_lab.widgets.panel import Panel

CHANGED = "Another panel has changed the model since: it is no longer as this one left it. Reset brings the base back."
TAKEN = "another panel took the lab over; start again when that is done"


class TrainingPanel(Panel):
    """Base of the panels that train: the training is a generator of views, and Stop is not asking for the next.

    A panel begins one with `_go_on`; each view goes to `_show`, and the end to `_ended`.
    """

    live: Any  # a trait: what the page shows of the training under way
    _items: Generator | None = None  # the training under way, begun and not ended
    _run: weakref.ref | None = None  # the finetune at which it is
    _taught = False  # whether the model is as this panel's training left it

    def __init__(self, lab: Lab | World, runner: str | None = None, theme: str = "auto", **traits):
        super().__init__(lab, runner, theme, **traits)
        if isinstance(lab, Lab):
            lab.watchers.add(self)

    def stop(self) -> None:
        """Stop asking for steps; the training can go on from here."""
        self._runner.stop()

    def model_changed(self) -> None:
        """Another panel has changed the lab's model: where this one had taught it, say so."""
        if self._taught:
            self._taught = False
            self.note = CHANGED

    def run_ended(self, run: Generator) -> None:
        """The lab has ended a finetune: a panel that was stopped in the middle of it says so, and lets go.

        A panel that is at it finds out at its next step.
        """
        items = self._items
        if items is None or self._run is None or self._run() is not run:
            return
        if self.state == "paused" and inspect.getgeneratorstate(items) == inspect.GEN_SUSPENDED:
            try:
                next(items)
            except TakenOver as problem:
                self._ended(problem)

    def give_way(self) -> None:
        self.lab.end()  # which has `run_ended` say so
        if self._items is not None:  # it was stopped between two finetunes
            self._give_up()
            self._failed(ValueError(TAKEN))

    def _go_on(self, items: Generator) -> None:
        """Let the runner ask for the views of a training, from its beginning or from where it was stopped."""
        self._items, self.state = items, "running"
        self._runner.start(items, self._show, self._ended)

    def _show(self, view: dict) -> None:
        self.live = view
        self.announce()

    def _ended(self, problem: BaseException | None) -> None:
        """The runner stopped, or the finetune was ended from outside."""
        raise NotImplementedError

    def _can_go_on(self) -> bool:
        """Whether a training is begun and has not come to its end."""
        return self._items is not None and inspect.getgeneratorstate(self._items) != inspect.GEN_CLOSED

    def _failed(self, problem: BaseException) -> None:
        """Nothing goes on from here: say what went wrong, and let other panels train."""
        self._items = None
        self.release()
        self.state = "idle"
        self.fail(problem)

    def _give_up(self) -> None:
        """End the training under way, wherever it is."""
        self._runner.stop()
        if self._items is not None:
            self._items.close()
            self._items = None
