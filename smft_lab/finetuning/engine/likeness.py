"""Whether two ways of running a model are alike: the loss and the gradients of one and of the other, up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from smft_lab.model.memory import value_tables

TOLERANCE = 1e-3  # relative; float32 sums in another order differ by 1e-6 or so
ROUNDED_TOLERANCE = 0.02
TIES = 0.02  # of the rows


def check_alike(plain: list[Tensor], cached: list[Tensor]) -> None:
    """Raise ValueError unless a loss and gradients agree, up to rounding; what only the second has is left out."""
    for exact, other in map(_of_common_rows, plain, cached):
        alike = exact.shape == other.shape and (
            not exact.numel() or torch.allclose(exact, other, rtol=TOLERANCE, atol=TOLERANCE * exact.abs().max().item())
        )
        if not alike:
            raise ValueError("the part above the frozen layers gives another loss or gradient")


def check_alike_if_rounded(exact: list[Tensor], rounded: list[Tensor]) -> None:
    """Raise ValueError unless a loss is the same up to a fiftieth, and gradients point the same way and are as long."""
    for first, other in map(_of_common_rows, exact, rounded):
        alike = first.shape == other.shape
        if alike and first.ndim == 0:
            alike = torch.allclose(first, other, rtol=ROUNDED_TOLERANCE, atol=0.01)
        elif alike and first.any():
            cosine = functional.cosine_similarity(first.flatten(), other.flatten(), dim=0)
            longer = (other.norm() / first.norm()).item()
            alike = cosine.item() > 1 - ROUNDED_TOLERANCE and abs(longer - 1) < 2 * ROUNDED_TOLERANCE
        if not alike:
            raise ValueError("rounded weights give another loss or gradient")


def _of_common_rows(first: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of two sparse gradients, the values of the rows that both have; anything else as it is.

    Rounding decides which of two slots is read that a query likes equally, so a few rows may be of one alone.

    Raises:
        ValueError: those are more than `TIES`.
    """
    if not (first.is_sparse and other.is_sparse):
        return first, other
    rows, others = first.indices()[0], other.indices()[0]
    also, too = torch.isin(rows, others), torch.isin(others, rows)
    if (~also).sum() + (~too).sum() > TIES * max(len(rows), len(others)):
        raise ValueError("the part above the frozen layers gives another row a gradient")
    return first.values()[also], other.values()[too]


def loss_and_gradients(model: nn.Module, loss: Tensor, retain_graph: bool = False) -> list[Tensor]:
    loss.backward(retain_graph=retain_graph)
    return [loss.detach(), *(table.take_gradient() for table in value_tables(model))]
