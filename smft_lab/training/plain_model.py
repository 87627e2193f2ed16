"""A small model of any architecture, trained on a text with questions: a model to try a retrofit on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from torch import nn

from smft_lab.facts.fact import Fact
from smft_lab.facts.public.datasets import Question
from smft_lab.model.drawing import drawn_from
from smft_lab.model.tokenizer import train_tokenizer
from smft_lab.probes.prompts import PLAIN, PromptForm
from smft_lab.storage import check_lab_place, is_lab_file
from smft_lab.training.memory_training import MemoryTraining, TextWindows, _parts, pretrain_memory
from smft_lab.training.pretrain import STATE
from smft_lab.writing import atomic_folder, clear_unfinished, json_text, naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHAPE = {
    "hidden_size": 192,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "intermediate_size": 768,
    "max_position_embeddings": 512,
}
VOCABULARY = 4096
MARK = "plain_model.json"  # lists the files of a saved one
TRAINING = MemoryTraining(steps=2000, window=128, lr=2e-3, warmup=100, everything=True)
SHARE = 0.4  # of the characters of a text with questions
TOGETHER = 8  # questions that stand one after another


def text_with_questions(
    text: str, questions: Sequence[Question | Fact], form: PromptForm = PLAIN, seed: int = 0
) -> str:
    """A text with questions and their first answers between its parts, again and again in other orders.

    Args:
        text: Ordinary text; its lines stay whole.
        form: How questions are put.
        seed: Of the orders.

    Raises:
        ValueError: there are no questions.
    """
    if not questions:
        raise ValueError("there are no questions to put into the text")
    answered = [form.answered(question.question, question.answers[0]) for question in questions]
    times = max(1, round(SHARE / (1 - SHARE) * len(text) / sum(map(len, answered))))
    rng, asked = Random(f"{seed}/questions"), []
    for _ in range(times):
        asked += rng.sample(answered, len(answered))
    blocks = ["".join(asked[i : i + TOGETHER]) for i in range(0, len(asked), TOGETHER)]
    lines = text.splitlines(keepends=True)
    edges = [i * len(lines) // len(blocks) for i in range(len(blocks) + 1)]
    return "".join(block + "".join(lines[edges[i] : edges[i + 1]]) for i, block in enumerate(blocks))


def new_plain_model(text: str, architecture: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """An untrained model without a memory, and a tokenizer trained on the text.

    Args:
        architecture: Its `model_type` in `transformers`, such as `gpt_neox`.

    Raises:
        ValueError: `transformers` has no causal language model of that type, or it can't be made in this shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"transformers has no causal language model of the type {architecture!r}; try gpt_neox, gpt2 or qwen2"
        )
    tokenizer = train_tokenizer(_parts(text), VOCABULARY)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **special, **SHAPE)
    with drawn_from(seed):
        try:
            model = AutoModelForCausalLM.from_config(config)
        except Exception as problem:  # what each architecture says of sizes that don't suit it
            raise ValueError(f"a {architecture} can't be made as small as {SHAPE}: {problem}") from problem
    return model.eval(), tokenizer


def train_plain_model(
    text: str, architecture: str, out: str | Path, steps: int | None = None, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """Train a new model on a text, and save it in `out` as `transformers` does; an unfinished run there goes on.

    The result is the same, stopped or not, where the architecture has no dropout; what that draws is of every run anew.

    Args:
        text: See `text_with_questions`.
        architecture: See `new_plain_model`.
        steps: Gradient steps; those of `TRAINING` by default.

    Yields:
        (steps done, loss in nats per token).

    Raises:
        OSError: `out` can't be written.
        ValueError: see `new_plain_model`; the text is too short; or there is another model, or a lab, at `out`.
    """
    out = Path(out)
    check_lab_place(out, MARK)
    settings = replace(TRAINING, steps=steps or TRAINING.steps, seed=seed)
    model, tokenizer = new_plain_model(text, architecture, seed)
    unfinished = out / "unfinished"
    yield from pretrain_memory(model, TextWindows(text, tokenizer, settings.window), settings, unfinished)
    with atomic_folder(out, MARK, is_lab_file) as folder, naming(out, lambda: _size(model)):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = sorted([MARK, *(file.name for file in folder.iterdir())])
        (folder / MARK).write_text(json_text({"architecture": architecture, "files": files}, 1), encoding="utf-8")
    clear_unfinished(unfinished, [STATE])


def _size(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
