"""Every causal family of the installed `transformers` that can be built tiny, from attaching to loading.

A handful is tried always. SMFT_LAB_FAMILIES=all tries every one, and SMFT_LAB_FAMILIES_TABLE=docs/families.md writes
what came of it.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from textwrap import fill

import pytest
import torch
from test_attach import IDS, MEMORY, lab_of
from test_masks import LONG, SHORT, fact
from tiny_families import families, tiny_model
from transformers import __version__

import smft_lab as smft
from smft_lab.lab import load
from smft_lab.model.attach import add_memory, feed_forwards
from smft_lab.model.memory import value_tables
from smft_lab.model.tokenizer import encode
from smft_lab.slots.patch import Patch

HANDFUL = ("apertus", "bloom", "gpt_oss", "llama4_text", "mllama", "nemotron_h", "gemma3", "mpt", "blenderbot")
ASKED = families() if os.environ.get("SMFT_LAB_FAMILIES") == "all" else HANDFUL
LESSON = {"optimizer": "sgd", "lr": 1.0, "top_t": 32, "passes": 2, "probe_every": 0}
RESULTS: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    if path := os.environ.get("SMFT_LAB_FAMILIES_TABLE"):
        lines = "".join(f"| `{family}` | {result} |\n" for family, result in sorted(RESULTS.items()))
        told = (
            f"What `SMFT_LAB_FAMILIES=all pytest tests/test_families.py` found with transformers {__version__}: each "
            "causal family, built tiny with random weights, gets a memory beside a feed-forward, is taught by the fast "
            "and by the plain way on short and on long texts, saved, loaded and reset."
        )
        key = (
            "*The plain way*: it works, but what its texts have in common is computed for each, so that teaching takes "
            "longer. *Blocks ... alone*: only these have a feed-forward. *Not tried*: it can't be built tiny, which "
            "says nothing of the model itself; try it. Of an encoder-decoder, what works is its decoder, loaded as a "
            "causal language model."
        )
        page = f"# Families\n\n{fill(told, 120)}\n\n{fill(key, 120)}\n\n| Family | Result |\n| --- | --- |\n{lines}"
        Path(path).write_text(page, encoding="utf-8")


def logits(model, ids=IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def taught(lab, facts, fast: bool) -> tuple[list[float], torch.Tensor]:
    losses = [step.loss for step in smft.finetune(lab, facts, fast=fast, **LESSON)][1:]
    return losses, value_tables(lab.model)[0].weight.detach().clone()


@pytest.mark.parametrize("family", ASKED)
def test_a_family_from_attaching_to_loading(family, tokenizer, corpus, tmp_path):
    RESULTS[family] = "fails"
    try:
        model, text = tiny_model(family), encode(tokenizer, list(fact(LONG).statements))
        ids = text["input_ids"][:1]
        before = logits(model, text["input_ids"])[:1]
        if not torch.equal(logits(model, text["input_ids"])[:1], before):
            raise ValueError("it gives other logits every time")
        try:
            with torch.inference_mode():
                model.base_model(input_ids=text["input_ids"], attention_mask=text["attention_mask"])
        except Exception as problem:
            raise ValueError("it fails by itself with a cache") from problem
        before = logits(model, ids)
    except Exception as problem:  # what can't be built tiny is not ours to try
        RESULTS[family] = "not tried: " + (str(problem) if str(problem).startswith("it ") else "can't be built tiny")
        pytest.skip(f"can't be built tiny: {problem}"[:200])
    try:
        blocks = feed_forwards(model)
    except ValueError as problem:
        alone = "can't be run on token ids and labels alone"
        reason = alone if alone in str(problem) else str(problem).split(": ", 1)[-1].split(". Looked")[0]
        RESULTS[family] = "refused: " + reason.replace("|", "/")
        if family in HANDFUL:
            raise
        return
    places = [number for number, place in enumerate(blocks) if place is not None]
    add_memory(model, places[0], **MEMORY)
    assert torch.equal(logits(model, ids), before)
    lab = lab_of(model, tokenizer, corpus)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for facts in ([fact(SHORT)], [fact(LONG)]):
            (plain, expected) = taught(lab, facts, False)
            lab.reset()
            (fast, found) = taught(lab, facts, True)
            assert fast == pytest.approx(plain, rel=1e-4)
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * expected.abs().max().item())
            assert expected.any()
            if facts[0].statements[0].startswith(SHORT):
                lab.reset()
    after = logits(model, ids)
    assert not torch.equal(after, before)
    patch = Patch.between(lab)
    lab.save(tmp_path)
    assert torch.equal(logits(load(tmp_path).model, ids), after)
    lab.reset()
    assert torch.equal(logits(model, ids), before)
    patch.apply(lab)
    assert torch.equal(logits(model, ids), after)
    slow = any("more slowly" in str(one.message) for one in told)
    some = "" if len(places) == len(blocks) else f", blocks {', '.join(map(str, places))} alone"
    RESULTS[family] = f"works{', the plain way' if slow else ''}{some}"
