"""Well-known remedies against forgetting, to be compared with: penalties on weights, and weight averaging.

Replay needs no code of its own: `finetune(..., mix=...)` trains on old texts beside the new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smft_lab.lab import Lab
from smft_lab.model.modes import evaluating, without_gradients
from smft_lab.ranges import check_positive


@dataclass(frozen=True)
class WeightPenalty:
    """Pulls every weight back to the base: strength / 2 * sum_i importance_i (w_i - base_i)^2 is added to the loss.

    Attributes:
        strength: Its weight beside the mean loss.
        importance: Per parameter name, as `fisher` gives it: elastic weight consolidation (Kirkpatrick et al. 2017).
            None makes all weights matter alike: L2 to the starting point (Li et al. 2018).

    Raises:
        ValueError: `strength` isn't positive.
    """

    strength: float
    importance: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        check_positive(strength=self.strength)

    @torch.no_grad()
    def add_gradient(self, lab: Lab) -> None:
        """Add the penalty's gradient to that of each parameter of the lab's model."""
        for name, parameter in lab.model.named_parameters():
            if parameter.grad is None:  # nothing of this step changes it
                continue
            pull = parameter - lab.base(name)
            if self.importance is not None:
                pull *= self.importance[name]
            parameter.grad.add_(pull, alpha=self.strength)


def fisher(lab: Lab, texts: Sequence[str]) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information: the mean squared gradient over `texts`, one at a time.

    Scaled to a mean of 1 over all weights, so that a strength means the same as without it.

    Raises:
        ValueError: there are no texts, no weight takes a gradient, or all gradients are 0 or one isn't finite.
    """
    if not texts:
        raise ValueError("the Fisher information needs at least one text")
    squares = {name: torch.zeros_like(parameter) for name, parameter in lab.model.named_parameters()}
    if not any(parameter.requires_grad for parameter in lab.model.parameters()):
        raise ValueError("no weight of the model takes a gradient; call lab.model.requires_grad_(True) first")
    with evaluating(lab.model), without_gradients(lab.model), torch.inference_mode(False), torch.enable_grad():
        for text in texts:
            lab.model(**lab.encode([text])).loss.backward()
            with torch.no_grad():
                for name, parameter in lab.model.named_parameters():
                    if parameter.grad is not None:
                        squares[name].addcmul_(parameter.grad, parameter.grad)
            lab.model.zero_grad(set_to_none=False)
    total = sum(float(square.sum()) for square in squares.values())
    count = sum(square.numel() for square in squares.values())
    if not 0 < total < math.inf:
        raise ValueError(f"the squared gradients add up to {total}; the Fisher information says nothing so")
    return {name: square.mul_(count / total) for name, square in squares.items()}


@torch.no_grad()
def average_with_base(lab: Lab, share: float) -> None:
    """Put `share` of the finetuned weights and the rest of the base's in the model (Wortsman et al. 2022, WiSE-FT).

    Raises:
        ValueError: `share` is not within [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be within [0, 1], not {share}")
    for name, parameter in lab.model.named_parameters():  # which names tied weights once
        parameter.copy_(torch.lerp(lab.base(name), parameter, share))
