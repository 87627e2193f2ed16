"""Two meters of a memory, before and while it is trained: are facts found again, and is what it adds heard?

*Addresses*: a fact written into the slots that one wording reads can be found from another wording only if that reads
the same slots. How alike two texts' addresses are is the weighted Jaccard similarity of their reads, each slot weighted
by its idf, so that slots which every text reads say nothing.

*Loudness*: the norm of what the memory adds, over the norm of the residual stream it is added to. Below `QUIET` little
is heard of what was written; above `LOUD` the rest of the model is shouted down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn

from smft_lab.facts.fact import Fact, as_facts
from smft_lab.model.attach import AttachedMemory, check_readable, feed_forwards
from smft_lab.model.drawing import drawn_from
from smft_lab.model.fitting import fit_addressing
from smft_lab.model.hooks import HookScope
from smft_lab.model.locking import reading
from smft_lab.model.memory import ProductKeys, block_of, memory_layers, stopping_at
from smft_lab.model.tokenizer import pad, predicting_positions
from smft_lab.slots.group import choose_slots, reads_of
from smft_lab.slots.scores import inverse_document_frequency
from smft_lab.slots.usage import Usage

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from smft_lab.lab import Lab
    from smft_lab.recipe import Recipe

PAIRS = 400  # of different facts that are compared
DEPTH = 0.55  # of the blocks; deeper ones lose the fact among what is about to be said
BLOCKS = 9  # that are looked at, at most
LEAST_STRAY = 0.005  # of a token's reads; less is none
STRAY = 2.0  # times the least stray of a block; more makes facts known elsewhere forgotten
BATCH = 32  # texts per forward pass
QUIET, LOUD = 0.05, 1.0
LOST = 0.05  # of a question's address in its own fact's wordings, more than in another's; below, it is not found


@dataclass(frozen=True)
class Addresses:
    """How alike the addresses of texts are in one value table.

    Attributes:
        same: Mean similarity, in [0, 1], of a fact's question to the wordings that would be taught.
        different: The same for the wordings of another fact.
        weak: Numbers of the facts whose question is no more like their own wordings than like others' (see `LOST`).
        each: Per fact, what `same` is the mean of.
    """

    same: float
    different: float
    weak: tuple[int, ...]
    each: tuple[float, ...] = ()

    @property
    def margin(self) -> float:
        """How much of the address is the fact's own: what a block is chosen by."""
        return self.same - self.different


def weighted_jaccard(address: dict[int, float], other: dict[int, float]) -> float:
    """Sum of the smaller over the sum of the larger weights, slot by slot, in [0, 1]; 0 for two empty ones."""
    smaller = sum(min(weight, other[slot]) for slot, weight in address.items() if slot in other)
    return smaller / whole if (whole := sum(address.values()) + sum(other.values()) - smaller) else 0.0


def address(slots: Int64[Tensor, " n"], idf: Float[Tensor, " N"]) -> dict[int, float]:
    """Reads of one text -> weight per slot: how often it is read, times its idf."""
    read, count = slots.unique(return_counts=True)
    weights = count.double() * idf[read].clamp(min=0)
    return {slot: weight for slot, weight in zip(read.tolist(), weights.tolist(), strict=True) if weight > 0}


def compare_addresses(
    reads: Sequence[Int64[Tensor, " _n"]], owners: Sequence[int], df: Int[Tensor, " N"], batches: int, seed: int = 0
) -> Addresses:
    """How alike the addresses of texts are, of one fact against two.

    Args:
        reads: Per text, the slots it reads. The first text of each fact is its question, the others are the wordings
            that would be taught.
        owners: The fact of each text, from 0, in ascending order.
        df, batches: Of the background.
        seed: Of which pairs of facts are compared.
    """
    facts = range(max(owners) + 1)
    first = [owners.index(owner) for owner in facts]
    # Words such as "Question" and "Answer" are in all of them, so the facts are background to each other, too.
    readers = Counter(slot for i in first for slot in set(reads[i].tolist()))
    df = df.clone()
    df[list(readers)] += torch.tensor(list(readers.values()), dtype=df.dtype)
    idf = inverse_document_frequency(df, batches + len(facts))
    addresses = [address(read, idf) for read in reads]
    own: list[float] = []
    for owner, question in enumerate(first):
        wordings = [i for i, o in enumerate(owners) if o == owner and i != question]
        own.append(sum(weighted_jaccard(addresses[question], addresses[i]) for i in wordings) / len(wordings))
    pairs = list(combinations(facts, 2))
    pairs = Random(f"{seed}/pairs").sample(pairs, min(PAIRS, len(pairs)))
    others = [weighted_jaccard(addresses[first[a]], addresses[first[b] + 1]) for a, b in pairs]
    different = sum(others) / len(others)
    weak = tuple(owner for owner, same in enumerate(own) if same - different < LOST)
    return Addresses(sum(own) / len(own), different, weak, tuple(own))


def wordings_of(
    facts: Sequence[Fact], form, tokenizer: PreTrainedTokenizerBase, wordings: int = 4, seed: int = 0
) -> tuple[list[str], list[int]]:
    """The texts that `compare_addresses` compares, and the fact of each: its question, then what would be taught.

    Raises:
        ValueError: there are fewer than two facts.
    """
    facts = as_facts(facts)
    if len(facts) < 2:
        raise ValueError("addresses are compared between facts; give at least two")
    rng = Random(f"{seed}/addresses")
    texts, owners = [], []
    for owner, fact in enumerate(facts):
        asked = [form.prompt(question, tokenizer) for question in fact.questions] or list(fact.statements)
        chosen = rng.sample(asked, min(wordings, len(asked)))
        texts += [form.prompt(fact.question, tokenizer), *chosen]
        owners += [owner] * (1 + len(chosen))
    return texts, owners


@reading
def measure_addresses(lab: Lab, facts: Sequence[Fact], *, wordings: int = 4, seed: int = 0) -> list[Addresses]:
    """How well facts would be found from their questions, by forward passes alone, per value table.

    Compares what the question of each fact reads, as the lab's form asks it, with what the wordings read that may be
    taught: its `questions`, else its statements. Where the lab's recipe counts only reads where an answer is predicted,
    so does this: those of a question's last token.

    Args:
        wordings: Of each fact, at most.
        seed: Of which are drawn.

    Raises:
        ValueError: there are fewer than two facts.

    Examples:
        >>> (address,) = smft.measure_addresses(lab, smft.new_facts(4))
        >>> address.same > address.different
        True
    """
    texts, owners = wordings_of(facts, lab.form, lab.tokenizer, wordings, seed)
    counts_answers = lab.recipe is not None and lab.recipe.counted == "answer"
    asked = (lab.form, lab.tokenizer, as_facts(facts), texts, owners)
    reads = reads_of(lab, texts, _answering(*asked) if counts_answers else None)
    return [
        compare_addresses([read[table] for read in reads], owners, df, lab.usage.batches, seed)
        for table, df in enumerate(lab.usage.df)
    ]


def _answering(
    form,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    texts: Sequence[str],
    owners: Sequence[int],
) -> list[list[int]]:
    """Which tokens of each text of `wordings_of` predict the answer: the last one of a prompt, some of a statement."""
    prompts = {form.prompt(text, tokenizer) for fact in facts for text in (fact.question, *fact.questions)}
    answers = [() if text in prompts else facts[owner].answers for text, owner in zip(texts, owners, strict=True)]
    positions = predicting_positions(tokenizer, texts, answers)  # without an answer, all
    return [row[-1:] if text in prompts else row for text, row in zip(texts, positions, strict=True)]


@reading
@torch.inference_mode()
def measure_blocks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    documents: Sequence[Sequence[int]],
    facts: Sequence[Fact],
    form,
    blocks: Sequence[int] | None = None,
    seed: int = 0,
    answering: Sequence[Bool[Tensor, " _tokens"]] | None = None,
) -> pd.DataFrame:
    """The addresses that a memory would have beside each block, by forward passes alone; no table is made.

    Args:
        model: A finished model, without a memory.
        recipe: Shape of the memory (see `Recipe`).
        documents: Background, as token ids, two at least; some hundreds are enough to rank blocks.
        facts: Whose wordings are compared; see `measure_addresses`.
        form: How they are asked (see `PromptForm`).
        blocks: Which; by default all of the first `DEPTH` of the model, or of all of it with `answering`, with a step
            that makes them at most `BLOCKS`.
        answering: Which tokens of each document predict an answer, where the memory is to be fitted to those alone.
            Then only what such tokens read counts, of documents and of facts.

    Returns:
        Columns block, same, different, margin, stray, weak (how many facts), best block first. Half of the background
        gives the idf; of the reads of the other half's tokens, `stray` is the root mean square share that goes to the
        slots in which the facts would be written. A block with more than `STRAY` times the least stray comes after
        all others: near the input, a word of a fact reads the same slots wherever it stands.
    """
    places = feed_forwards(model)
    if blocks is None:
        last = len(places) if answering is not None else max(1, round(DEPTH * len(places)))
        known = [block for block, place in enumerate(places) if place is not None]
        known = [block for block in known if block < last] or known[:1]
        blocks = known[:: -(-len(known) // BLOCKS)]
    width, device = model.config.get_text_config().hidden_size, next(model.parameters()).device
    keys = {}
    for block in blocks:
        with drawn_from(seed):
            keys[block] = ProductKeys(width, recipe.slots, recipe.heads, recipe.k, recipe.key_dim, True, recipe.whiten)

    def states(rows: list[Sequence[int]]) -> Iterator[tuple[int, int, Float[Tensor, "_tokens D"]]]:
        """Row, block and hidden states of every row, which `pad` ends by a token that isn't given."""
        for start in range(0, len(rows), BATCH):
            batch = pad(tokenizer, rows[start : start + BATCH])
            check_readable(model, batch["input_ids"])
            with inputs_of([places[block].entry for block in keys]) as got:
                model.base_model(
                    input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
                )
            for block, x in zip(keys, got, strict=True):
                x = x.view(len(batch["input_ids"]), -1, width)
                for i in range(len(x)):
                    yield start + i, block, x[i, : len(rows[start + i])].cpu()

    background: dict[int, list[Tensor]] = {block: [] for block in keys}
    for i, block, x in states(list(documents)):
        background[block].append(x if answering is None else x[answering[i]])
    texts, owners = wordings_of(facts, form, tokenizer, seed=seed)
    places_of = None if answering is None else _answering(form, tokenizer, as_facts(facts), texts, owners)
    reads: dict[int, list[Tensor]] = {block: [torch.empty(0)] * len(texts) for block in keys}
    counted, others = range(0, len(documents), 2), range(1, len(documents), 2)
    for block, inputs in background.items():
        fit_addressing(keys[block], torch.cat(inputs), recipe.keys, seed)
    for i, block, x in states([form.ids(tokenizer, text) for text in texts]):
        x = x if places_of is None else x[places_of[i]]
        reads[block][i] = keys[block](x.unsqueeze(0))[0].flatten().cpu()
    rows = []
    for block, inputs in background.items():
        read = [keys[block](x.unsqueeze(0))[0][0].flatten(1).cpu() for x in inputs]  # (tokens, reads) per document
        usage = Usage(len(counted), *(torch.zeros(1, recipe.slots, dtype=torch.int32) for _ in range(2)))
        for i in counted:
            slots, count = read[i].unique(return_counts=True)
            usage.df[0, slots] += 1
            usage.count[0, slots] += count.int()
        compared = compare_addresses(reads[block], owners, usage.df[0], usage.batches, seed)
        later = [i for i, owner in enumerate(owners) if owner in owners[:i]]  # all but the question of each fact
        (chosen,) = choose_slots(
            usage,
            [owners[i] for i in later],
            [[reads[block][i]] for i in later],
            min(recipe.top_t, recipe.slots),
            **recipe.choosing,
        )
        written = torch.zeros(recipe.slots, dtype=torch.float32)
        written[chosen] = 1.0
        stray = torch.cat([written[read[i]].mean(1) for i in others]).square().mean().sqrt().item()
        rows.append(
            {
                "block": block,
                "same": compared.same,
                "different": compared.different,
                "margin": compared.margin,
                "stray": stray,
                "weak": len(compared.weak),
            }
        )
    table = pd.DataFrame(rows)
    table["loud"] = table["stray"] > STRAY * max(table["stray"].min(), LEAST_STRAY)
    return table.sort_values(["loud", "margin"], ascending=[True, False], ignore_index=True).drop(columns="loud")


@contextmanager
def inputs_of(modules: Sequence[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """What each module gets in the forward pass inside the block, which ends as soon as the last has run."""
    got: list[Tensor] = []
    with HookScope() as scope:
        for module in modules:
            scope.pre_hook(module, lambda module, args: got.append(args[0]))
        with stopping_at(modules[-1]):
            yield got


@dataclass
class Loudness:
    """What the memory adds against the residual stream, position by position where it adds anything.

    Attributes:
        ratios: Per forward pass, the norm of what is added over the norm it is added to.
    """

    ratios: list[Float[Tensor, " _positions"]]

    @property
    def median(self) -> float:
        """0 where nothing was added yet."""
        return self.at(0.5)

    def at(self, share: float) -> float:
        """What this share of the positions is below, in [0, 1]; 0 where nothing was added yet."""
        seen = torch.cat(self.ratios) if self.ratios else torch.zeros(0)
        return seen.float().quantile(share, interpolation="lower").item() if len(seen) else 0.0

    def warning(self) -> str | None:
        """What is wrong with it, and what to do; None when nothing is."""
        if self.median < QUIET:
            return (
                f"the memory adds {self.median:.3f} of the residual stream: too quiet to be heard. Take a higher rate "
                "or more passes; with a gate or projection, attach it without"
            )
        if self.median > LOUD:
            return (
                f"the memory adds {self.median:.1f} times the residual stream: too loud to be safe. Take a lower rate"
            )
        return None


@contextmanager
def observe_loudness(model: nn.Module) -> Iterator[Loudness]:
    """Measure the loudness of all forward passes until the block ends; of the first memory layer that is added."""
    loudness = Loudness([])
    layer, added = memory_layers(model)[0], []
    block = block_of(model, layer)

    def keep_added(module, args, output):
        added.append(output.detach())

    def compare(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        read = added.pop().view_as(hidden)
        norm, before = read.norm(dim=-1).flatten(), (hidden.detach() - read).norm(dim=-1).flatten()
        heard = norm > 0
        loudness.ratios.append((norm[heard] / before[heard].clamp(min=1e-6)).cpu())

    with HookScope() as scope:
        scope.hook(layer, keep_added)
        scope.hook(block, compare)
        yield loudness


@reading
@torch.inference_mode()
def measure_loudness(lab: Lab, facts: Sequence[Fact]) -> Loudness:
    """The loudness of the memory where the questions of some facts are asked.

    Raises:
        ValueError: a question is longer than the model reads.

    Examples:
        >>> loudness = smft.measure_loudness(lab, smft.new_facts(2))
        >>> len(loudness.ratios)
        2
    """
    with observe_loudness(lab.model) as loudness:
        for fact in as_facts(facts):
            ids = lab.form.ids(lab.tokenizer, lab.form.prompt(fact.question, lab.tokenizer))
            batch = pad(lab.tokenizer, [ids])
            check_readable(lab.model, batch["input_ids"])
            lab.model.base_model(**{name: batch[name].to(lab.model.device) for name in ("input_ids", "attention_mask")})
    return loudness


def has_added_memory(model: nn.Module) -> bool:
    """Whether the memory stands beside a feed-forward."""
    return any(isinstance(module, AttachedMemory) and module.feed_forward is not None for module in model.modules())
