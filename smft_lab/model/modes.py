"""What of a model differs while it trains: the mode of each module, which dropout goes by, and the gradients."""

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


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """The model without gradients at the beginning of the block; at its end with those that it had before."""
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    try:
        model.zero_grad()
        yield
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
