"""Numbers in sentences for people."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """So many of what `noun` names.

    Args:
        plural: Of a noun that doesn't take an s.

    Examples:
        >>> counted(1, "seed"), counted(7245, "row"), counted(2, "pass", "passes")
        ('1 seed', '7,245 rows', '2 passes')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
