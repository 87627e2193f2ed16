"""How this process multiplies float32 numbers: a setting that is changed for a product, and put back."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float32

_SETTING = Lock()  # of the process, so of all threads
_BEFORE: list[str] = []  # what the setting was, as long as it is another


def product_by_onednn(a: Float32[Tensor, "M D"], b: Float32[Tensor, "D N"]) -> Float32[Tensor, "M N"]:
    """a @ b in float32, by oneDNN; the name of the setting is of what it does with AMX."""
    with _SETTING:
        try:
            _BEFORE[:] = _BEFORE or [_products().fp32_precision]
            _products().fp32_precision = "bf16"
            return a @ b
        finally:
            _restore()


def restore_precision() -> None:
    """Put the setting back, where an interrupt left it changed."""
    if _BEFORE:
        with _SETTING:
            _restore()


def _restore() -> None:
    if _BEFORE:
        _products().fp32_precision = _BEFORE[0]
        _BEFORE.clear()


def _products():
    return torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
