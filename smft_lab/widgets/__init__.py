"""Live panels for notebooks. Each is one line to open, and needs nothing but the kernel it runs in."""

from smft_lab.widgets.top_t import TopT

__all__ = ["TopT"]
