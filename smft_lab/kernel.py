"""Whether this process is the kernel of a notebook."""

from __future__ import annotations

import sys


def in_kernel() -> bool:
    """Whether cells run here: a program may import the package of kernels without being one."""
    kernels = sys.modules.get("ipykernel.kernelapp")
    return kernels is not None and kernels.IPKernelApp.initialized()
