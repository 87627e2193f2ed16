"""Adapters of `peft` around a lab's model, merged into it when a run ends."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from smft_lab.finetuning.dense import DenseTraining, empty_memories
from smft_lab.finetuning.method import Method
from smft_lab.lab import Lab
from smft_lab.model.drawing import drawn_from
from smft_lab.model.memory import memory_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AdapterTraining(DenseTraining):
    """Adapters of `peft` at work.

    Args:
        settings: A resolved method.
        config: A `PeftConfig`.
        seed: Of the adapters' start.

    Warns:
        UserWarning: They don't stand beside all linear layers and experts, as in some mixtures of experts.
    """

    def __init__(self, lab: Lab, settings: Method, config, seed: int):
        from peft import get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        weights = linear_weights(lab.model, empty_memories(lab.model))
        # Where activations are computed again in the backward pass, peft leaves a hook there.
        self._embedding = lab.model.get_input_embeddings()
        self._hooks = set(self._embedding._forward_hooks)
        with drawn_from(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers; nobody here can act on it
            wrapped = get_peft_model(lab.model, config)
        adapters = [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
        adapted = {
            getattr(adapter.get_base_layer(), getattr(adapter, "parameter_name", None) or "weight")
            for adapter in adapters
        }
        others = {name: weight for name, weight in weights.items() if weight not in adapted}
        self.adapted = 1 - sum(map(torch.numel, others.values())) / sum(map(torch.numel, weights.values()))
        if others:
            kinds = sorted({".".join(part for part in name.split(".") if not part.isdigit()) for name in others})
            warnings.warn(
                f"{settings.short} adapts {self.adapted:.0%} of the weights of linear layers and experts; peft leaves "
                f"out {', '.join(kinds)}",
                stacklevel=2,
            )
        super().__init__(lab.model, settings)
        self.wrapped = wrapped

    def finish(self) -> None:
        self.wrapped.merge_and_unload()
        torch.clear_autocast_cache()
        for key in self._embedding._forward_hooks.keys() - self._hooks:
            del self._embedding._forward_hooks[key]


def without_adapters(model: nn.Module) -> list[str]:
    """Names of modules that get no adapter: those of empty memories, and linear layers that do more than multiply, such
    as routers that give a tuple."""
    routers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward
    ]
    return [*empty_memories(model), *routers]


def linear_weights(model: PreTrainedModel, without: Sequence[str]) -> dict[str, nn.Parameter]:
    """Weights that multiply what the model computes: of linear layers and of stacked experts, but for the output's.

    Args:
        without: Names of modules that don't count.
    """
    output, weights = model.get_output_embeddings(), {}
    memory = {part for layer in memory_layers(model).values() for part in layer.modules()}
    for name, module in model.named_modules():
        if module is output or name in without:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            weights[f"{name}.weight"] = module.weight
        elif module not in memory and not isinstance(module, _ConvNd):
            stacked = module.named_parameters(recurse=False)
            weights |= {f"{name}.{own}": parameter for own, parameter in stacked if parameter.ndim > 2}
    return weights
