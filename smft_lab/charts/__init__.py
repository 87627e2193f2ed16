"""Charts as still pictures, for notebooks: `picture` draws them side by side, and says in a sentence what they show.

>>> import smft_lab as smft
>>> smft.charts.picture(smft.charts.bars(["a", "b"], [1, 3], "reads"), says="b is read more often.")
b is read more often.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smft_lab.charts.pictures import (
        Picture,
        bars,
        curves,
        gauge,
        grid,
        heat,
        picture,
        plane,
        spans,
        tokens,
    )

__all__ = ["Picture", "bars", "curves", "gauge", "grid", "heat", "picture", "plane", "spans", "tokens"]

if not TYPE_CHECKING:  # matplotlib is imported with the first picture, not with the colours beside it

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module 'smft_lab.charts' has no attribute {name!r}")
        return getattr(import_module("smft_lab.charts.pictures"), name)

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
