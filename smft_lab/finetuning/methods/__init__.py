"""The methods of finetuning: each module of this folder holds one, and registers it.

A method of one's own needs no more than a file here; `compare`, the command line, panels and charts find it by its key
(see `smft_lab.finetuning.method.Method`).
"""

from importlib import import_module
from pkgutil import iter_modules

# isort: off
# In the order in which they are shown.
from smft_lab.finetuning.method import METHODS, Method, method_of, register
from smft_lab.finetuning.methods.sparse import Sparse
from smft_lab.finetuning.methods.full import Full
from smft_lab.finetuning.methods.lora import Lora
# isort: on

STANDARD = tuple(METHODS)
"""What is compared by default, as in the paper."""

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "STANDARD", "Full", "Lora", "Method", "Sparse", "method_of", "register"]


def __getattr__(name: str):
    kinds = {kind.__name__: kind for kind in METHODS.values()}
    if name not in kinds:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return kinds[name]
