"""The first line of every notebook: what runs here, and what is known to go wrong with it."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from contextlib import suppress
from pathlib import Path

import joblib
import psutil
import torch

from smft_lab import __version__
from smft_lab.kernel import in_kernel
from smft_lab.widgets.runners import runner_name
from smft_lab.wording import counted

SHOWN = ("torch", "transformers", "ipywidgets")


def setup() -> None:
    """Make the notebook ready and print one line on its health; does nothing twice and nothing elsewhere.

    In Colab it lets widgets in. Where a container may use fewer cores than the machine has (Binder), torch is told so:
    each of its threads holds memory of its own.

    Examples:
        >>> smft.setup()  # doctest: +ELLIPSIS
        smft-lab ... torch ...
    """
    if "google.colab" in sys.modules:
        importlib.import_module("google.colab.output").enable_custom_widget_manager()
    cores = joblib.cpu_count()  # heeds affinity and the container's quota
    if torch.get_num_threads() > cores:
        torch.set_num_threads(cores)
    device = f"CPU, {counted(cores, 'core')}"
    if torch.cuda.is_available():
        device += f" (the lab computes on it; on {torch.cuda.get_device_name()} with load(device='cuda'))"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN]
    parts = [
        f"smft-lab {__version__}",
        f"Python {platform.python_version()}",
        *versions,
        device,
        f"runner: {runner_name()}",
    ]
    print(" · ".join(parts))
    for warning in troubles():
        print(f"Warning: {warning}")


def troubles() -> list[str]:
    """What is known not to work with the versions installed here, and what to do."""
    problems = []
    if in_kernel() and importlib.metadata.version("ipykernel").startswith("7.0."):
        problems.append("ipykernel 7.0 ends every live training at once; run  pip install -U ipykernel  and restart")
    return problems


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, of its container (Binder) and of its own limit.

    Examples:
        >>> smft.free_memory() > 100_000_000
        True
    """
    free = [psutil.virtual_memory().available]
    with suppress(OSError, ValueError):  # no container, or "max"
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    with suppress(ImportError, OSError):  # not on Windows
        import resource

        used = psutil.Process().memory_info()
        for limit, taken in (("RLIMIT_DATA", getattr(used, "data", used.rss)), ("RLIMIT_AS", used.vms)):
            most = resource.getrlimit(getattr(resource, limit))[0]
            if most != resource.RLIM_INFINITY:
                free.append(most - taken)
    return max(0, min(free))
