"""Live panels for notebooks. Each is one line to open, and needs nothing but the kernel it runs in."""

from smft_lab.widgets.addresses import Addresses
from smft_lab.widgets.compare import Compare
from smft_lab.widgets.predict import Predict
from smft_lab.widgets.slots import Slots
from smft_lab.widgets.teach import Teach
from smft_lab.widgets.top_t import TopT
from smft_lab.widgets.train import Train

__all__ = ["Addresses", "Compare", "Predict", "Slots", "Teach", "TopT", "Train"]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
