"""What of a model differs while it trains: the mode of each module, which dropout goes by, gradients, router losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

ROUTER_LOSS = "output_router_logits"
"""Of a config: whether a mixture of experts adds what balances its experts to the loss of a text."""


def configs_of(model: nn.Module) -> list:
    """The configs of a model and of its parts, each once."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    return list(configs.values())


def router_configs(model: nn.Module) -> list:
    """The configs that say whether there is a router's loss."""
    return [config for config in configs_of(model) if hasattr(config, ROUTER_LOSS)]


def leave_router_loss(model: nn.Module) -> None:
    """From now on the loss is that of the text alone, as a new fact isn't meant to move which experts are called."""
    for config in router_configs(model):
        setattr(config, ROUTER_LOSS, False)


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
