#!/usr/bin/env bash
# torch 2.13.0, on a CPU. We guessed that a training loop within one `torch.autocast` block computes each step with the
# weights that the step before has left. Seen: the rounded copy of a weight that takes a gradient is kept until the
# outermost block ends, so that every forward pass is that of the first weights. The weights move, the loss stays the
# same to the bit, and nothing is said. With `cache_enabled=False`, or `torch.clear_autocast_cache()` after each step, it
# falls.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/train.py" <<'PYTHON'
import torch


def losses(clear: bool, **options) -> tuple[list[float], bool]:
    torch.manual_seed(0)
    layer, x, y = torch.nn.Linear(8, 8), torch.randn(16, 8), torch.randn(16, 8)
    before = layer.weight.detach().clone()
    optimizer, seen = torch.optim.SGD(layer.parameters(), lr=0.5), []
    with torch.autocast("cpu", torch.bfloat16, **options):
        for _ in range(4):
            loss = (layer(x).float() - y).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.item())
            if clear:
                torch.clear_autocast_cache()
    return seen, not torch.equal(layer.weight, before)


for name, clear, options in (("plain", False, {}), ("uncached", False, {"cache_enabled": False}), ("cleared", True, {})):
    seen, moved = losses(clear, **options)
    print(f"{name}: {len(set(seen))} different losses of {len(seen)}, falls {seen[-1] < seen[0]}, weights moved {moved}")
PYTHON
cd "$work"
"$work/venv/bin/python" train.py | tee seen
diff seen - <<'EXPECTED'
plain: 1 different losses of 4, falls False, weights moved True
uncached: 4 different losses of 4, falls True, weights moved True
cleared: 4 different losses of 4, falls True, weights moved True
EXPECTED
