#!/usr/bin/env bash
# torch 2.13.0 on a CPU: `torch.zeros` takes all of a tensor's memory when it is made, though nothing was written to it.
# We guessed that it asks the system for zero pages, as `numpy.zeros` does, whose array takes memory only where it is
# written to, and so planned a memory layer's table of a million empty rows with it. On Linux, 1 GiB of zeros adds 1 GiB
# to what the process holds with torch, and next to nothing with numpy; `torch.from_numpy` keeps it that way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 psutil==7.2.2
"$work/venv/bin/python" - <<'PYTHON'
import numpy
import psutil
import torch

SIDE = 2**14  # a square of float32 numbers: 1 GiB


def held() -> float:
    return psutil.Process().memory_info().rss / 2**30


def added(make) -> float:
    before = held()
    kept = make()
    grown = held() - before
    assert kept.shape == (SIDE, SIDE) and kept[5, 5] == 0
    return grown


by_numpy = added(lambda: numpy.zeros((SIDE, SIDE), dtype=numpy.float32))
by_bridge = added(lambda: torch.from_numpy(numpy.zeros((SIDE, SIDE), dtype=numpy.float32)))
by_torch = added(lambda: torch.zeros(SIDE, SIDE))
print(f"torch {torch.__version__}, numpy {numpy.__version__}: GiB added by 1 GiB of zeros")
print(f"numpy.zeros {by_numpy:.2f}, torch.from_numpy(numpy.zeros) {by_bridge:.2f}, torch.zeros {by_torch:.2f}")
assert by_torch > 0.9, "torch.zeros no longer takes its memory at once"
assert by_numpy < 0.1 and by_bridge < 0.1, "numpy.zeros takes its memory at once"
print("as described")
PYTHON
