"""What numbers a setting may be: checks that no NaN slips through, as it does through a plain comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real


def check_positive(**settings: object) -> None:
    """Raise ValueError unless each setting is a finite number above 0."""
    for name, value in settings.items():
        if not _finite(name, value) > 0:
            raise ValueError(f"{name} must be positive, not {value}")


def check_not_negative(**settings: object) -> None:
    """Raise ValueError unless each setting is a finite number of at least 0."""
    for name, value in settings.items():
        if not _finite(name, value) >= 0:
            raise ValueError(f"{name} must be at least 0, not {value}")


def check_counts(**settings: object) -> None:
    """Raise ValueError unless each setting is a whole number of at least 1."""
    for name, value in settings.items():
        if _finite(name, value) < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, not {value}")


def check_seeds(*seeds: object) -> None:
    """Raise ValueError unless each seed is a whole number that a generator of PyTorch takes."""
    for seed in seeds:
        if not isinstance(seed, Integral) or isinstance(seed, bool) or not -(2**63) <= seed < 2**63:
            raise ValueError(f"a seed must be a whole number of at most 63 bits, not {str(seed)[:40]!r}")


def seeds_of(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """The seeds that are named, or the first so many (0, 1, ...), as Python's own numbers.

    Raises:
        ValueError: there is none, one is named twice, or one is out of range (see `check_seeds`).
    """
    if isinstance(seeds, int | Integral):
        check_counts(seeds=seeds)
        return tuple(range(int(seeds)))
    named = tuple(seeds)
    check_seeds(*named)
    if not named:
        raise ValueError("at least one seed is needed")
    if len(set(named)) < len(named):
        raise ValueError("a seed is named twice")
    return tuple(map(int, named))


def _finite(name: str, value: object) -> float:
    try:
        if isinstance(value, Real) and math.isfinite(number := float(value)):
            return number
    except OverflowError:  # a whole number beyond all floats
        value = "one of over 300 digits"
    raise ValueError(f"{name} must be a finite number, not {str(value)[:40]!r}")
