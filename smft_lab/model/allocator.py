"""Memory that training gives back is memory it asks for again a millisecond later."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for reuse, instead of returning them to the system.

    Every tensor above 128 kB is otherwise mapped and unmapped anew, and its pages faulted in again; on virtual machines
    that can cost several times the arithmetic of a small model. All threads share what is kept: a panel's worker would
    keep as much again for itself alone. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_ARENA_MAX, 1)
