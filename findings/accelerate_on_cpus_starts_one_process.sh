#!/usr/bin/env bash
# accelerate 1.15.0 on a machine without a GPU. We guessed that `accelerate launch --cpu --num_processes 2` starts a
# script twice, and that `PartialState()` knows of the other process. Seen: the script is started once, without
# WORLD_SIZE, and says nothing of the second process that was asked for. Under torchrun it is started twice, and
# `PartialState()` still counts one process in each; only `PartialState(cpu=True)` counts two.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 accelerate==1.15.0 numpy
export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
cat > "$work/count.py" <<'PYTHON'
import os
import sys

from accelerate import PartialState

state = PartialState(cpu=True) if "cpu" in sys.argv else PartialState()
with open(f"{sys.argv[1]}.{os.getpid()}", "w") as file:
    file.write(f"world {os.environ.get('WORLD_SIZE')}, processes {state.num_processes}\n")
PYTHON
cd "$work"
export PATH="$work/venv/bin:$PATH"
accelerate launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no count.py launch 2> /dev/null
torchrun --standalone --nproc-per-node 2 count.py torchrun 2> /dev/null
torchrun --standalone --nproc-per-node 2 count.py torchrun-cpu cpu 2> /dev/null
for name in launch torchrun torchrun-cpu; do
  echo "$name:"
  cat "$name".*
done | tee seen
diff seen - <<'EXPECTED'
launch:
world None, processes 1
torchrun:
world 2, processes 1
world 2, processes 1
torchrun-cpu:
world 2, processes 2
world 2, processes 2
EXPECTED
