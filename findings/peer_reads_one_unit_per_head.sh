#!/usr/bin/env bash
# PEER-pytorch 0.2.2. We guessed that `num_experts_per_head=32` makes each head read 32 units of the table, as in the
# paper it follows (arXiv 2407.04153). Seen: with its default `non_competing_scores=True` each head reads a single one,
# whatever that number is, so 4 heads read 4 units a token and not 128; with `non_competing_scores=False` they read 128.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 PEER-pytorch==0.2.2 numpy
"$work/venv/bin/python" - <<'PYTHON'
import torch
from PEER_pytorch import PEER

seen = {}
for name, options in (("by default", {}), ("competing", {"non_competing_scores": False})):
    layer = PEER(dim=64, heads=4, num_experts=64 * 64, num_experts_per_head=32, **options)
    units = []
    layer.weight_down_embed.register_forward_hook(lambda module, args, output: units.append(args[0].shape[2:].numel()))
    layer(torch.randn(1, 10, 64))
    seen[name] = units[0]
print(seen)
assert seen == {"by default": 4, "competing": 128}, seen
PYTHON
