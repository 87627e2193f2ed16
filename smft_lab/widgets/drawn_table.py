"""The table as it is drawn: the square of product keys, slot = row x side + column, aggregated where it is large."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64, Num

MOST = 256  # cells a side


def side_of(slots: int) -> int:
    """How many cells a side the drawn table has."""
    return min(MOST, math.isqrt(slots))


def cell_of(slot: Int64[Tensor, "*shape"], slots: int) -> Int64[Tensor, "*shape"]:
    """The cell, row x side + column, that a slot of a table of `slots` is drawn in; any shape."""
    keys, side = math.isqrt(slots), side_of(slots)
    return slot // keys * side // keys * side + slot % keys * side // keys


def in_cells(values: Num[Tensor, " N"], how: str) -> Float64[Tensor, " cells"]:
    """(N,) values as (side^2,) cells: their `sum`, or the largest (`amax`) of those that share a cell."""
    cells = torch.zeros(side_of(len(values)) ** 2, dtype=torch.double)
    return cells.scatter_reduce_(0, cell_of(torch.arange(len(values)), len(values)), values.double(), how)
