"""Hooks and modes that last as long as a `with` block, also where an interrupt keeps it from taking them down."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial

from torch import nn
from torch.utils.hooks import RemovableHandle

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class HookScope:
    """A `with` block in which modules do something else besides.

    What it puts there asks, each time, whether the scope is still open, so that a leftover does nothing; `drop_ended`
    takes leftovers away.
    """

    def __init__(self):
        self._open = True
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> HookScope:
        return self

    def __exit__(self, *_) -> None:
        self._open = False
        for handle in self._handles:
            handle.remove()

    @property
    def lasts(self) -> Callable[[], bool]:
        """Tells whether the scope is still open; doesn't keep it."""
        return partial(_lasts, weakref.ref(self))

    def hook(self, module: nn.Module, function: Callable, with_kwargs: bool = False) -> None:
        """Have `function` called after `module`, as `register_forward_hook` does."""
        self._handles.append(module.register_forward_hook(_Hook(function, self.lasts), with_kwargs=with_kwargs))

    def pre_hook(self, module: nn.Module, function: Callable, with_kwargs: bool = False) -> None:
        """Have `function` called before `module`, as `register_forward_pre_hook` does."""
        self._handles.append(module.register_forward_pre_hook(_Hook(function, self.lasts), with_kwargs=with_kwargs))


class _Hook:
    def __init__(self, function: Callable, lasts: Callable[[], bool]):
        self.function, self.lasts = function, lasts

    def __call__(self, *args):
        return self.function(*args) if self.lasts() else None


def _lasts(scope: weakref.ref[HookScope]) -> bool:
    there = scope()
    return there is not None and there._open


def drop_ended(model: nn.Module) -> None:
    """Take away the hooks of scopes that have ended."""
    places = [[kind for name in HOOKS if (kind := vars(module)[name])] for module in model.modules()]
    if any(isinstance(hook, _Hook) and hook.lasts() for hooks in places for kind in hooks for hook in kind.values()):
        gc.collect()  # an interrupted scope may be kept by nothing but the errors that refer to each other
    for hooks in places:
        ended = {key for kind in hooks for key, hook in kind.items() if isinstance(hook, _Hook) and not hook.lasts()}
        for kind in hooks if ended else ():
            for key in ended & kind.keys():
                del kind[key]
