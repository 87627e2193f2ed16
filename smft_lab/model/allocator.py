"""Memory that training gives back is memory it asks for again a millisecond later."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for reuse, instead of returning them to the system.

    Every tensor above 128 kB is otherwise mapped and unmapped anew, and its pages faulted in again; on virtual machines
    that can cost several times the arithmetic of a small model. Does nothing where there is no glibc.
    """
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Give what is kept back to the system, after work that had a thread of its own: each such thread keeps its own.

    Does nothing where there is no glibc.
    """
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


def _of_glibc(name: str):
    """A function of glibc, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
