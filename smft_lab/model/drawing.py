"""New weights, drawn from a seed: the same whatever a process is set to, and nobody else's random numbers move on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Weights that are made in the block are drawn from this seed, in float32 and on the CPU.

    `torch.manual_seed` is not for it: that seeds the generators of all devices, and only the CPU's is put back here.
    """
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(int(seed))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(before)
