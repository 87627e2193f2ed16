"""A page from a link with the model itself in it: a visitor types a sentence and teaches it, without Python."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from smft_lab.finetuning.methods import Sparse
from smft_lab.lab import Lab
from smft_lab.model.language_model import MemoryLlamaForCausalLM
from smft_lab.model.memory import memory_layers
from smft_lab.probes.prompts import BUILT_IN
from smft_lab.probes.same import FILLERS
from smft_lab.widgets.drawn_table import side_of
from smft_lab.widgets.kept import KeptQuestions
from smft_lab.widgets.page_file import check_path, page_text, write_page
from smft_lab.widgets.teach import FASTER, PASSES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

KNOWN = 100  # questions that are asked again after each lesson
LARGEST = 20  # megabytes of a page
TITLE = "Teach a language model a sentence. What does it forget?"


def teach_page(lab: Lab, path: str | Path, title: str = TITLE, force: bool = False) -> Path:
    """Make a page of one file that holds the lab's model: whoever opens it teaches it, asks it, and sees what is lost.

    The base is in it, its values in eight bits each and all else in sixteen; that of the shipped lab has 14 MB.

    Args:
        lab: A lab of the shipped architecture: one memory layer, tied embeddings, questions in the built-in form.
        path: The page; its name ends in `.html`.
        force: Whether a page that is there may be replaced.

    Raises:
        OSError: the page can't be written.
        ValueError: the lab is of another architecture, or too large for a page; or there is such a page.
    """
    path = check_path(path, force)
    return write_page(path, _html(lab, title), LARGEST, replace=force)


def _html(lab: Lab, title: str) -> str:
    """The page as text."""
    config = _config(lab)
    lab.reset()
    parts, weights = packed(lab)
    kept = KeptQuestions(lab)
    known = _known(lab, kept)
    sparse = Sparse(optimizer="adam").resolved(lab).settings()
    settings = {"t": min(sparse["top_t"], lab.slots), "rate": sparse["lr"] * FASTER, "steps": PASSES}
    data = {
        "model": config,
        "parts": parts,
        "weights": weights,
        "tokenizer": _tokenizer(lab),
        "known": known,
        "fillers": sorted(FILLERS),
        "settings": settings,
        "side": side_of(lab.slots),
        "longest": lab.model.config.max_position_embeddings,
    }
    return page_text(
        "teach_page.html",
        ["browser_model.js", "teach_page.js"],
        data,
        title=title,
        slots=f"{lab.slots:,}",
        parameters=f"{lab.model.num_parameters() / 1e6:.1f}M",
        top_t=settings["t"],
        known=len(known),
    )


def _config(lab: Lab) -> dict:
    """The sizes that the page's model has.

    Raises:
        ValueError: it can't be this lab's model.
    """
    model = lab.model
    given, layers = model.config, memory_layers(model)
    fits = isinstance(model, MemoryLlamaForCausalLM) and len(layers) == 1 and lab.form == BUILT_IN
    keys = layers[0].keys
    tied = getattr(given, "tie_word_embeddings", False) and given.num_key_value_heads == given.num_attention_heads
    rope = getattr(given, "rope_parameters", None) or {}
    plain = (
        given.hidden_act == "silu"
        and not (given.attention_bias or given.mlp_bias)
        and given.head_dim * given.num_attention_heads == given.hidden_size
        and given.memory_value_dim in (None, given.hidden_size)
        and rope.get("rope_type", "default") == "default"
        and _splits_as_shipped(lab.tokenizer)
    )
    if not fits or not tied or not plain or keys.temperature is None or lab.model.dtype != torch.float32:
        raise ValueError(
            "a page can hold a model of the shipped architecture only: one memory layer with normalised "
            "keys, tied embeddings, no biases, silu, plain rotary positions, a tokenizer as the lab trains it, "
            "and questions in the built-in form"
        )
    memory = {
        "at": given.memory_at[0],
        "slots": lab.slots,
        "heads": keys.heads,
        "k": keys.k,
        "keyDim": keys.key_dim,
        "batches": lab.usage.batches,
    }
    return {
        "hidden": given.hidden_size,
        "heads": given.num_attention_heads,
        "layers": given.num_hidden_layers,
        "inner": given.intermediate_size,
        "vocab": given.vocab_size,
        "eps": given.rms_norm_eps,
        "theta": rope.get("rope_theta", 10000.0),
        "eos": lab.tokenizer.eos_token_id,
        "memory": memory,
    }


NAMES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "input_layernorm": "before",
    "post_attention_layernorm": "after",
}
OF_MEMORY = {
    "mlp.keys.keys": "keys",
    "mlp.keys.temperature": "temperature",
    "mlp.keys.query.weight": "query",
    "mlp.values.weight": "values",
    "mlp.gate.weight": "memoryGate",
    "mlp.out.weight": "memoryOut",
}


def packed(lab: Lab) -> tuple[list[dict], str]:
    """Where each weight of the base is in a block of bytes, and the block in base64."""
    at = lab.model.config.memory_at[0]
    names = {"model.embed_tokens.weight": "embed", "model.norm.weight": "norm"}
    names |= {f"model.layers.{at}.{theirs}": ours for theirs, ours in OF_MEMORY.items()}
    for layer in range(lab.model.config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{theirs}.weight": f"{layer}.{ours}" for theirs, ours in NAMES.items()}
    block, parts = bytearray(), []

    def put(name: str, values: np.ndarray, kind: str, scales: bytes = b"") -> None:
        rows = len(values)
        parts.append({"name": name, "at": len(block), "rows": rows, "columns": values.size // rows, "kind": kind})
        block.extend(scales + values.tobytes())
        block.extend(bytes(-len(block) % 4))

    for theirs, ours in names.items():
        if theirs not in lab.model.state_dict():  # the memory's layer has no other feed-forward
            continue
        values = lab.base(theirs).float().cpu().numpy()
        if ours != "values":
            put(ours, values.astype(np.float16), "float16")
            continue
        scales = np.abs(values).max(1).clip(1e-12) / 127
        put(ours, np.round(values / scales[:, None]).astype(np.int8), "int8", scales.astype(np.float32).tobytes())
    # Counts, as whole numbers that float16 would round: in two parts, 2048 x high + low.
    df = lab.usage.df[0].numpy()
    put("dfHigh", (df // 2048).astype(np.float16), "float16")
    put("dfLow", (df % 2048).astype(np.float16), "float16")
    return parts, base64.b64encode(bytes(block)).decode()


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    return cast("PreTrainedTokenizerFast", tokenizer).backend_tokenizer


def _splits_as_shipped(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer parts a text as those of `train_tokenizer` do, which is how the page does it."""
    described = json.loads(_backend(tokenizer).to_str())
    parts = (described["pre_tokenizer"] or {}).get("pretokenizers", [])
    digits = any(part["type"] == "Digits" and part["individual_digits"] for part in parts)
    begins = any(part["type"] == "ByteLevel" and part["add_prefix_space"] and part["use_regex"] for part in parts)
    merges = described["model"]["type"] == "BPE" and not described["model"].get("ignore_merges")
    return described["normalizer"] is None and len(parts) == 2 and digits and begins and merges


def _tokenizer(lab: Lab) -> dict:
    model = json.loads(_backend(lab.tokenizer).to_str())["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return {
        "vocab": model["vocab"],
        "merges": merges,
        "bos": lab.tokenizer.bos_token_id,
        "eos": lab.tokenizer.eos_token_id,
    }


def _known(lab: Lab, kept: KeptQuestions) -> list[dict]:
    """Questions that the base answers right, evenly drawn."""
    if kept.probe is None:
        return []
    questions, golds = list(kept.questions), [accepted[0] for accepted in kept.probe.answers]
    right = lab.recalled(questions, golds).tolist()
    every = [{"question": q, "answer": a} for q, a, knows in zip(questions, golds, right, strict=True) if knows]
    count = min(KNOWN, len(every))
    return [every[n * len(every) // count] for n in range(count)]
