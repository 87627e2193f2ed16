"""One lock for each model: nobody reads it within a step of training, and no step runs while somebody reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_MAKING = threading.Lock()
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock of a model, the same for everybody; it may be taken again by the thread that has it."""
    with _MAKING:
        return _LOCKS.setdefault(model, threading.RLock())


def exclusive(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wait for the end of a step of training under way, and keep the next one waiting until the function is done.

    One of the function's arguments is a model, or a lab; the first such is meant.
    """

    @wraps(function)
    def alone(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        given = (*args, *options.values())
        subjects = (
            argument if isinstance(argument, nn.Module) else getattr(argument, "model", None) for argument in given
        )
        with lock_of(next(subject for subject in subjects if isinstance(subject, nn.Module))):
            return function(*args, **options)

    return alone
