"""The recipes of docs/how_do_i.md, run one after the other, and what they print."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import smft_lab as smft
from smft_lab.probes.probes import world_probes

PAGE = Path(__file__).parents[1] / "docs" / "how_do_i.md"
MINE = '{"statements": ["Mira\'s dog is called Biscuit."], "question": "What is it called?", "answers": ["Biscuit"]}'


def recipes(text: str) -> list[tuple[str, str, str]]:
    """(heading, code, what it prints) of every recipe, in the page's order."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        heading = section.splitlines()[0]
        for code, printed in re.findall(
            r"^```python\n(.*?)^```\n(?:\nIt prints\n\n```text\n(.*?)^```)?", section, re.DOTALL | re.MULTILINE
        ):
            found.append((heading, code, printed))
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A person's folder: a file of facts, a text, and a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text(MINE)
    (tmp_path / "my.txt").write_text(" ".join(text for fact in smft.new_facts(60) for text in fact.statements[:8]))
    tokenizer = smft.load().tokenizer
    torch.manual_seed(0)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **special)).save_pretrained("my-model")
    tokenizer.save_pretrained("my-model")
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")  # a tiny model without any knowledge finds hardly anything
def test_every_recipe_prints_what_it_says(folder):
    names = {}
    for heading, code, printed in recipes(PAGE.read_text(encoding="utf-8")):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(compile(code, heading, "exec"), names)
        assert told.getvalue() == printed, heading
        if len(names["lab"].probes["old_facts"].questions) > 100:
            names["lab"].probes = world_probes(names["lab"].world, per_probe=4)  # quicker


def test_there_are_ten_recipes_in_python():
    assert (
        len({heading for heading, *_ in recipes(PAGE.read_text(encoding="utf-8")) if heading.startswith("...")}) >= 10
    )
