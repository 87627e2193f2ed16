"""Multiple choice by likelihood, as lm_eval asks it: which ending of a context does the model find likeliest?"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from smft_lab.facts.public.datasets import Choice
from smft_lab.model.attach import check_readable
from smft_lab.model.locking import reading
from smft_lab.model.tokenizer import pad, text_ids
from smft_lab.probes.same import Changes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOGITS = 2**27  # at most so many in a pass; half a GiB in float32
BATCH = 64  # endings per forward pass


@dataclass(frozen=True)
class ChoiceProbe:
    """Which of several endings has the largest likelihood after its context (the measures of lm_eval).

    `acc` takes the sum of an ending's log-probabilities, `acc_norm` that sum by the ending's length in characters,
    without the blank before it.

    Attributes:
        endings: Of each context, as they are written after it, with the blank that parts them.
        labels: Which of them is right.

    Examples:
        >>> probe = smft.ChoiceProbe("capitals", ("The capital of France is",), ((" Paris", " Rome"),), (0,))
        >>> sorted(probe.measure(lab.model, lab.tokenizer))
        ['acc', 'acc_norm']
    """

    name: str
    contexts: tuple[str, ...]
    endings: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.contexts, str) or any(isinstance(endings, str) for endings in self.endings):
            raise ValueError(f"probe {self.name!r} needs a list of contexts, and a list of endings for each")
        if not len(self.contexts) == len(self.endings) == len(self.labels):
            raise ValueError(f"probe {self.name!r} needs endings and a label for each context")
        for context, endings, label in zip(self.contexts, self.endings, self.labels, strict=True):
            if not context or not all(endings) or not 0 <= label < len(endings):
                raise ValueError(
                    f"probe {self.name!r}, context {context[:40]!r}: needs endings of some length and a label among "
                    f"them, not {label} of {len(endings)}"
                )

    @classmethod
    def of(cls, name: str, choices: Iterable[Choice], kind: str = "") -> ChoiceProbe:
        """A probe of the choices that `read_dataset` gives.

        Args:
            kind: `hellaswag` clears the markup of its texts away, and `arc` and `piqa` are put as questions, as in
                lm_eval; any other leaves texts as they are.
        """
        choices = list(choices)
        clean = _without_markup if kind == "hellaswag" else str.strip
        put = "Question: {}\nAnswer:" if kind in ("arc", "piqa") else "{}"
        return cls(
            name,
            tuple(put.replace("{}", clean(choice.context)) for choice in choices),
            tuple(tuple(f" {clean(ending)}" for ending in choice.endings) for choice in choices),
            tuple(choice.label for choice in choices),
        )

    @property
    def size(self) -> int:
        """How much it asks."""
        return len(self.contexts)

    def but(self, changes: Changes) -> ChoiceProbe:
        """The same probe without contexts that ask what is changed."""
        keep = [i for i, context in enumerate(self.contexts) if not changes.touch(context)]
        if len(keep) == len(self.contexts):
            return self
        parts = {name: tuple(getattr(self, name)[i] for i in keep) for name in ("contexts", "endings", "labels")}
        return replace(self, **parts)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        pairs = [(c, e) for c, endings in zip(self.contexts, self.endings, strict=True) for e in endings]
        scores = iter(log_likelihoods(model, tokenizer, pairs))
        right = right_norm = 0
        for endings, label in zip(self.endings, self.labels, strict=True):
            own = [next(scores) for _ in endings]
            by_length = [score / max(1, len(ending.strip())) for score, ending in zip(own, endings, strict=True)]
            right += own.index(max(own)) == label
            right_norm += by_length.index(max(by_length)) == label
        return {"acc": right / len(self.labels), "acc_norm": right_norm / len(self.labels)}


@reading
@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]
) -> list[float]:
    """Log-probability, in nats, of the second text of each pair after the first.

    A blank that ends the first text belongs to the second, as in lm_eval.

    Raises:
        ValueError: the texts of a pair are together longer than the model reads, or have a token that it doesn't know.
    """
    moved = [(before.rstrip(), before[len(before.rstrip()) :] + after) for before, after in pairs]
    rows = text_ids(tokenizer, [before + after for before, after in moved])
    starts = [len(ids) for ids in text_ids(tokenizer, [before for before, _ in moved])]
    most = max(1, LOGITS // model.config.get_text_config().vocab_size)
    few = "logits_to_keep" in inspect.signature(model.forward).parameters
    scores = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # the longest first: what is too long fails at once
    first = 0
    while first < len(order):
        chosen = order[first : first + max(1, min(BATCH, most // (len(rows[order[first]]) + 1)))]
        first += len(chosen)
        batch = {name: tensor.to(model.device) for name, tensor in pad(tokenizer, [rows[i] for i in chosen]).items()}
        check_readable(model, batch["input_ids"])
        labels = batch.pop("labels")
        labels[torch.arange(len(labels)), batch["attention_mask"].sum(1) - 1] = -100  # the end of the text
        for row, i in enumerate(chosen):
            labels[row, : max(1, starts[i])] = -100
        places = (labels[:, 1:] != -100).any(0).nonzero().flatten()  # where some ending is foreseen
        logits = model(**batch, logits_to_keep=places).logits if few else model(**batch).logits[:, places]
        losses = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), labels[:, places + 1], ignore_index=-100, reduction="none"
        )
        for i, loss in zip(chosen, losses.sum(1).tolist(), strict=True):
            scores[i] = -loss
    return scores


def lm_eval_probe(task: str, limit: int | None = None, folder: str | Path | None = None) -> ChoiceProbe:
    """A multiple-choice task of lm_eval, such as `hellaswag`, `arc_easy` or `piqa`, with no examples before it.

    Args:
        limit: The first so many of its documents; all by default.
        folder: Where tasks of one's own are described, in addition to those of lm_eval.

    Raises:
        ValueError: lm_eval is not installed, has no such task, or it is not one of multiple choice.
    """
    try:
        from lm_eval.tasks import TaskManager, get_task_dict  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f'the task {task} needs the package lm_eval; pip install "smft-lab[eval]"') from None
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    try:
        made = get_task_dict([task], TaskManager(include_path=None if folder is None else str(folder)))[task]
    except KeyError:
        raise ValueError(f"lm_eval has no task {task!r}; `lm_eval ls tasks` lists those it has") from None
    if getattr(made, "OUTPUT_TYPE", None) != "multiple_choice":
        raise ValueError(f"the task {task} is not one of multiple choice; name one that is, such as hellaswag")
    made.build_all_requests(limit=limit, rank=0, world_size=1)
    asked: dict[int, list] = {}
    for request in made.instances:
        asked.setdefault(request.doc_id, []).append(request)
    contexts, endings, labels = [], [], []
    for requests in asked.values():
        requests.sort(key=lambda request: request.idx)
        gold = made.doc_to_target(requests[0].doc)
        if len({request.args[0] for request in requests}) > 1 or not isinstance(gold, int):
            raise ValueError(f"the task {task} has several contexts or answers to a question; name a plainer one")
        contexts.append(requests[0].args[0])
        endings.append(tuple(request.args[1] for request in requests))
        labels.append(gold)
    return ChoiceProbe(task, tuple(contexts), tuple(endings), tuple(labels))


def _without_markup(text: str) -> str:
    """A text of HellaSwag without the marks of its source, WikiHow."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()
