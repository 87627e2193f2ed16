"""Whether a model trains: the mode of each of its modules, which dropout goes by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without dropout, until the block ends; then each module in the mode it was in."""
    in_training = [module for module in model.modules() if module.training]
    try:
        if in_training:
            model.eval()
        yield
    finally:
        for module in in_training:
            module.training = True
