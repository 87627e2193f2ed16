"""One lock for each model: nobody reads it within a step of training, and no step runs while somebody reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from smft_lab.model.modes import evaluating

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
PAUSE = 0.01  # seconds between two looks at whether others are done
_MAKING = threading.RLock()  # a run that is collected meanwhile ends, and takes a lock, too
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock of a model, the same for everybody; it may be taken again by the thread that has it."""
    with _MAKING:
        return _LOCKS.setdefault(model, threading.RLock())


def give_way(lock: threading.RLock, done: Callable[[], bool]) -> None:
    """Wait until something is done, and let others have the lock meanwhile, though this thread has it: to be called
    before anything is read that they might change."""
    with lock:
        others = threading.Condition(lock)
        while not done():
            others.wait(PAUSE)


def exclusive(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wait for the end of a step of training under way, and keep the next one waiting until the function is done.

    One of the function's arguments is a model, or a lab; the first such is meant.
    """

    @wraps(function)
    def alone(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        with lock_of(_model_in((*args, *options.values()))):
            return function(*args, **options)

    return alone


def reading(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """As `exclusive`, and without dropout: what reads a model reads it in evaluation mode, whoever trains it."""

    @wraps(function)
    def reader(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        model = _model_in((*args, *options.values()))
        with lock_of(model), evaluating(model):
            return function(*args, **options)

    return reader


def _model_in(arguments: Iterable[object]) -> nn.Module:
    """The first model among some arguments, or that of the first lab."""
    subjects = (
        argument if isinstance(argument, nn.Module) else getattr(argument, "model", None) for argument in arguments
    )
    return next(subject for subject in subjects if isinstance(subject, nn.Module))
