"""Paraphrases that begin alike are computed once as far as they are alike.

A causal model gives a position the same output in every statement that reads the same up to there. The statements of a
batch are therefore a tree of tokens, and a tree can be run as a single row: each token at its own depth, attending to
its ancestors alone. A position's loss is then over all the tokens that follow it in the batch, and its reads count as
often as it occurs, so that the loss, its gradient and the choice of slots stay those of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, Int64

ROW = 192  # tokens of a tree at which it is split in two: attention costs the square of them
LEAST_SAVED = 0.2  # of a batch's positions, padding included; below that its rows are as good
LARGEST = 2**22  # entries of an attention mask; long documents pass it, and stay rows


@dataclass(frozen=True)
class Targets:
    """What each predicting position has to predict, and how often.

    P positions, L pairs of a position and a label, and M labels in the batch.

    Attributes:
        predicting: Flat positions that predict a label.
        place: For each pair, the position's place in `predicting`.
        label: The label.
        weight: How many times the batch holds the pair.
        total: The weights of each position, summed.
        pair: Which pair each of the batch's labels is.
        text: Which of its texts each is in.
    """

    predicting: Int64[Tensor, " P"]
    place: Int64[Tensor, " L"]
    label: Int64[Tensor, " L"]
    weight: Float32[Tensor, " L"]
    total: Float32[Tensor, " P"]
    pair: Int64[Tensor, " M"]
    text: Int64[Tensor, " M"]

    @classmethod
    def of(cls, positions: Int64[Tensor, " M"], labels: Int64[Tensor, " M"], texts: Int64[Tensor, " M"]) -> Targets:
        """The targets of flat positions, labels, and the texts they are in, in any order."""
        words = int(labels.max()) + 1 if len(labels) else 1
        pairs, pair, weight = (positions * words + labels).unique(return_inverse=True, return_counts=True)
        predicting, place = (pairs // words).unique(return_inverse=True)
        weight = weight.float()
        total = weight.new_zeros(len(predicting)).index_add_(0, place, weight)
        return cls(predicting, place, pairs % words, weight, total, pair, texts)

    def nats(self, logits: Float[Tensor, "P V"]) -> Float32[Tensor, " L"]:
        """Cross-entropy of each pair."""
        return -logits.float().log_softmax(-1)[self.place, self.label]

    def mean(self, nats: Float32[Tensor, " L"]) -> Float32[Tensor, ""]:
        """Mean over all labels of what each pair has."""
        return (nats * self.weight).sum() / self.weight.sum()

    def worst_of_text(self, nats: Float32[Tensor, " L"], texts: int) -> Float32[Tensor, " {texts}"]:
        """Of each of so many texts, the largest that one of its own labels has; 0 where it has none."""
        worst = nats.new_zeros(texts)
        return worst.scatter_reduce_(0, self.text, nats.detach()[self.pair], "amax")


@dataclass(frozen=True)
class Form:
    """A batch in the shape in which it is run: its rows as they are, or trees; G of them, of U tokens.

    Attributes:
        inputs: What the model is called with: `input_ids`, `attention_mask`, and `position_ids` for trees.
        counted: How many of the batch's counted positions each position stands for.
        targets: What is predicted where.
        places: Where each position of the batch is in the flattened input ids; -1 for padding.
    """

    inputs: dict[str, Tensor]
    counted: Int[Tensor, "G U"]
    targets: Targets
    places: Int64[Tensor, "B T"]

    @property
    def packed(self) -> bool:
        """Whether it is trees."""
        return "position_ids" in self.inputs

    @cached_property
    def branches(self) -> bool:
        """Whether it is trees in which something stands beside another; else a row is one text after all."""
        if not self.packed:
            return False
        sees = self.inputs["attention_mask"][:, 0] == 0
        real = sees.sum(-1, keepdim=True) > 1  # padding sees itself alone
        return bool((sees.tril().logical_not() & torch.ones_like(sees).tril() & real).any())


def as_rows(inputs: dict[str, Int64[Tensor, "B T"]], counted: Int[Tensor, "B T"]) -> Form:
    """The batch as it is.

    Args:
        inputs: `input_ids`, `attention_mask` and `labels`.
        counted: The positions whose reads count.
    """
    following = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100).flatten()
    predicting = (following != -100).nonzero().squeeze(1)
    plain = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    texts = predicting // inputs["labels"].shape[1]
    places = torch.arange(counted.numel(), device=counted.device).view(counted.shape)
    places = places.masked_fill(inputs["attention_mask"] == 0, -1)
    return Form(plain, counted, Targets.of(predicting, following[predicting], texts), places)


def as_trees(
    inputs: dict[str, Int64[Tensor, "B T"]],
    counted: Int[Tensor, "B T"],
    dtype: torch.dtype = torch.float32,
    least: int = 1,
    least_saved: float = LEAST_SAVED,
) -> Form | None:
    """The batch as trees, one a row, or None where that saves too little or takes too large a mask.

    For G trees of at most U tokens, its input and position ids are (G, U) and its `attention_mask` is (G, 1, U, U), to
    be added to attention scores.

    Args:
        inputs, counted: As for `as_rows`; padding is on the right.
        dtype: Of the attention mask.
        least: As many trees as that, where there are texts for them.
        least_saved: Share of the positions, padding included, below which it saves too little.
    """
    texts = token_rows(inputs)
    rows = _alike(texts, least)
    trees = [_Tree(texts, row) for row in rows]
    G, U = len(trees), max(len(tree.parents) for tree in trees)
    if inputs["input_ids"].numel() * (1 - least_saved) < G * U or G * U * U > LARGEST:
        return None
    ids, depths = np.zeros((2, G, U), dtype=np.int64)
    sees = np.broadcast_to(np.eye(U, dtype=bool), (G, U, U)).copy()
    places = np.full(inputs["input_ids"].shape, -1)  # which of the G * U tokens stands for a position
    for g, tree in enumerate(trees):
        size = len(tree.parents)
        ids[g, :size], depths[g, :size] = tree.tokens, tree.depths
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                sees[g, node] |= sees[g, parent]
        for text, path in tree.paths.items():
            places[text, : len(path)] = path
            places[text, : len(path)] += g * U
    device = inputs["input_ids"].device
    places, mask = torch.from_numpy(places).to(device), torch.zeros(G, 1, U, U, dtype=dtype)
    mask.masked_fill_(torch.from_numpy(~sees).unsqueeze(1), torch.finfo(dtype).min)
    known = places >= 0
    times = torch.zeros(G * U, dtype=counted.dtype, device=device).index_add_(0, places[known], counted[known])
    labels = inputs["labels"]
    predicts = known[:, :-1] & (labels[:, 1:] != -100)
    return Form(
        {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": mask.to(device),
            "position_ids": torch.from_numpy(depths).to(device),
        },
        times.view(G, U),
        Targets.of(places[:, :-1][predicts], labels[:, 1:][predicts], predicts.nonzero()[:, 0]),
        places,
    )


def token_rows(inputs: dict[str, Int64[Tensor, "B T"]]) -> list[list[int]]:
    """The tokens of each text of a batch with padding on the right, without it."""
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)]


def _alike(texts: list[list[int]], least: int = 1) -> list[list[int]]:
    """Which texts share a row: neighbours in the order of a dictionary, in rows of about equally many tokens.

    Args:
        least: Rows, if there are texts for them.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    before, last = [], []
    total = 0
    for i in order:
        alike = next(
            (n for n, (a, b) in enumerate(zip(texts[i], last, strict=False)) if a != b), min(len(texts[i]), len(last))
        )
        before.append(total)
        total += len(texts[i]) - alike
        last = texts[i]
    rows: list[list[int]] = [[] for _ in range(max(least, math.ceil(total / ROW)))]
    for i, tokens in zip(order, before, strict=True):
        rows[min(tokens * len(rows) // total, len(rows) - 1)].append(i)  # the last may add nothing
    return [row for row in rows if row]


class _Tree:
    """The tokens of some texts, beginnings in common once.

    Attributes:
        tokens, depths, parents: Of each token of the tree; parents come first, and the root's is -1.
        paths: The tokens of each text.
    """

    def __init__(self, texts: list[list[int]], which: list[int]):
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.parents: list[int] = []
        self.paths: dict[int, list[int]] = {}
        known: dict[tuple[int, int], int] = {}
        for i in which:
            at, path = -1, []
            for depth, token in enumerate(texts[i]):
                if (at, token) not in known:
                    known[at, token] = len(self.tokens)
                    self.tokens.append(token)
                    self.depths.append(depth)
                    self.parents.append(at)
                at = known[at, token]
                path.append(at)
            self.paths[i] = path
