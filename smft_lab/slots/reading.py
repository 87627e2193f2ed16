"""What one text reads, token by token, and the slots that all paraphrases of a fact read: its core set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smft_lab.facts.fact import Fact, as_facts
from smft_lab.model.attach import check_readable
from smft_lab.model.locking import reading
from smft_lab.model.memory import memory_layers, observe_reads, stopping_at, value_tables
from smft_lab.model.tokenizer import offsets_of, pad, text_ids

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from smft_lab.lab import Lab

PART = "…"


@dataclass(frozen=True)
class TokenReads:
    """The reads of one text.

    Attributes:
        tokens: The pieces of the text as they are written, "" for a token that writes nothing, such as the one that
            begins every text; then the end-of-text token as "". Where several tokens write one character together,
            the first has it and the others are PART.
        slots: Per value table, what each token reads; R = layers of the table x heads x k.
        weights: Per value table, how much of each slot's row a token takes; they sum to 1 per head.
    """

    tokens: list[str]
    slots: list[Int64[Tensor, "tokens _R"]]
    weights: list[Float[Tensor, "tokens _R"]]


@reading
def token_reads(lab: Lab, text: str) -> TokenReads:
    """What each token of `text` reads.

    Raises:
        ValueError: the text is empty, or longer than the model reads.

    Examples:
        >>> reads = smft.token_reads(lab, "A boat is here.")
        >>> len(reads.tokens) == len(reads.slots[0])
        True
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("type a text first")
    batch = lab.encode([text])
    slots, weights = reads_by_table(lab.model, batch)
    return TokenReads(
        [*_pieces(lab.tokenizer, text), ""], [table[0] for table in slots], [table[0] for table in weights]
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """What each token of a text writes."""
    pieces, reached = [], 0
    for start, end in offsets_of(tokenizer, text)[: len(text_ids(tokenizer, text))]:
        # A byte-level tokenizer gives each byte of a character that takes several the place of the whole character.
        pieces.append(PART if start < end <= reached else text[start:end])
        reached = max(reached, end)
    return pieces


@reading
def core_set(lab: Lab, fact: Fact) -> list[Int64[Tensor, " _C"]]:
    """Slots that every statement of the fact reads and that answering its question reads too (paper section 4.3).

    The question is put as the lab's form puts it.

    Returns:
        Per value table, slots, ascending; read at a token or the end of the text, padding excluded.

    Raises:
        ValueError: this is no single fact.

    Examples:
        >>> (slots,) = smft.core_set(lab, smft.new_facts(1)[0])
        >>> len(slots) > 0
        True
    """
    if len(facts := as_facts(fact)) != 1:
        raise ValueError(f"the core set is of one fact, not of {len(facts)}")
    (fact,) = facts
    asked = lab.form.ids(lab.tokenizer, lab.form.answered(fact.question, fact.answer, lab.tokenizer))
    batch = pad(lab.tokenizer, [*text_ids(lab.tokenizer, list(fact.statements)), asked])
    batch = {name: tensor.to(lab.model.device) for name, tensor in batch.items()}
    slots, _ = reads_by_table(lab.model, batch)
    mask = batch["attention_mask"].bool().cpu()
    cores = []
    for read in slots:
        rows, reads = mask.nonzero()[:, :1].expand(-1, read.shape[-1]), read[mask]
        pairs = torch.unique(torch.stack([reads.flatten(), rows.flatten()]), dim=1)
        distinct, texts = pairs[0].unique_consecutive(return_counts=True)
        cores.append(distinct[texts == len(mask)])
    return cores


@reading
def reads_by_table(
    model: PreTrainedModel, batch: dict[str, Int64[Tensor, "B T"]]
) -> tuple[list[Int64[Tensor, "B T _R"]], list[Float[Tensor, "B T _R"]]]:
    """Slots and weights per value table; the pass ends at the last memory layer's addressing."""
    layers, tables = memory_layers(model), value_tables(model)
    check_readable(model, batch["input_ids"])
    with observe_reads(model) as reads, torch.inference_mode(), stopping_at(layers[len(layers) - 1].keys):
        model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def of(kind: str) -> list[Tensor]:
        of_tables = [[] for _ in tables]
        for position, layer in layers.items():
            read = getattr(reads[position], kind)[-1]  # some models join batch and tokens before their feed-forward
            of_tables[tables.index(layer.values)].append(read.reshape(*batch["input_ids"].shape, -1))
        return [torch.cat(of_table, -1).cpu() for of_table in of_tables]

    return of("slots"), of("weights")
