"""How a model is put together, recorded before training takes it apart, so that all of it can be put back."""

from __future__ import annotations

import itertools

from torch import nn

from smft_lab.model.hooks import HOOKS
from smft_lab.model.memory import ProductKeys, ValueTable
from smft_lab.model.modes import ROUTER_LOSS, router_configs

MODES = {ProductKeys: "_known", ValueTable: "hits"}


class Wiring:
    """A model's modules at their places, their modes and hooks, which parameters take a gradient, and router losses.

    `restore` may be stopped anywhere and called again. The numbers in the weights are none of its business.
    """

    def __init__(self, model: nn.Module):
        modules = list(model.modules())
        self._model = model
        self._children = [(module, dict(module._modules)) for module in modules]
        self._parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._hooks = [
            (hooks, dict(hooks))
            for module, name in itertools.product(modules, HOOKS)
            if (hooks := vars(module)[name]) is not None
        ]
        self._modes = [
            (module, name, vars(module)[name])
            for module in modules
            for kind, name in MODES.items()
            if isinstance(module, kind)
        ]
        self._modes += [(module, "training", module.training) for module in modules]
        self._modes += [(config, ROUTER_LOSS, getattr(config, ROUTER_LOSS)) for config in router_configs(model)]
        self._adapted = hasattr(model, "peft_config")

    def restore(self, hooks: bool = True) -> None:
        """Put it all back, and drop the gradients.

        Args:
            hooks: Whether hooks that came since go, whoever put them there.
        """
        for module, children in self._children:
            _refill(module._modules, children)
        for module, name, value in self._modes:
            setattr(module, name, value)
        if hooks:
            for present, before in self._hooks:
                _refill(present, before)
        for parameter, takes_gradient in self._parameters:
            parameter.requires_grad_(takes_gradient)
            parameter.grad = None
        if not self._adapted:  # peft leaves its name on a model where it was stopped half-way
            vars(self._model).pop("peft_config", None)


def _refill(present: dict, before: dict) -> None:
    if present.keys() != before.keys() or any(present[name] is not before[name] for name in before):
        present.clear()
        present.update(before)
