"""Copies of a model's weights in memory: what is shared is copied once, and of a table mostly of zeros few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smft_lab.model.memory import differing_rows, empty_table, named_tables

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def storage(tensor: Tensor) -> tuple:
    """Tells tensors apart that don't share all their memory."""
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def distinct(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a state dict without those that share their memory with one before, as tied embeddings do."""
    first: dict[tuple, str] = {}
    for name, tensor in entries.items():
        first.setdefault(storage(tensor), name)
    return {name: entries[name] for name in first.values()}


def cloned(entries: dict[str, Tensor], rows: dict[str, Int64[Tensor, " _rows"]]) -> dict[str, Tensor]:
    """A copy of a state dict in which what was shared is shared again.

    Args:
        rows: Of entries that are mostly zeros, the rows that are not: the table of a real model is as large as the
            model, and a copy of it takes little.
    """
    clones = {
        storage(tensor): _copy_of_rows(tensor, rows[name]) if name in rows else tensor.clone()
        for name, tensor in distinct(entries).items()
    }
    return {name: clones[storage(tensor)] for name, tensor in entries.items()}


def _copy_of_rows(table: Float[Tensor, "N Vd"], rows: Int64[Tensor, " rows"]) -> Float[Tensor, "N Vd"]:
    if not len(rows):
        return _zeros_like(table)
    if table.dtype != torch.float32 or table.is_cuda:
        return table.clone()
    copy = empty_table(*table.shape)
    copy[rows] = table[rows]
    return copy


def few_rows(model: nn.Module) -> dict[str, Int64[Tensor, " _rows"]]:
    """Of the value tables of which most rows are zero, state-dict names and the rows that are not."""
    rows = {
        name: differing_rows(table.weight, _zeros_like(table.weight))
        for name, table in zip(*named_tables(model), strict=True)
    }
    return {name: changed for name, changed in rows.items() if 2 * len(changed) < len(model.state_dict()[name])}


def _zeros_like(tensor: Tensor) -> Tensor:
    """One zero, seen everywhere."""
    return tensor.new_zeros(1).expand(tensor.shape)
