"""What numbers a setting may be: checks that no NaN slips through, as it does through a plain comparison."""

from __future__ import annotations

import math
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


def _finite(name: str, value: object) -> float:
    try:
        if isinstance(value, Real) and math.isfinite(number := float(value)):
            return number
    except OverflowError:  # a whole number beyond all floats
        value = "one of over 300 digits"
    raise ValueError(f"{name} must be a finite number, not {str(value)[:40]!r}")
