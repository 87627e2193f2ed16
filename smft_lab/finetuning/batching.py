"""The batches of a run, encoded: what each step sees, and which reads in it count."""

from __future__ import annotations

from collections import OrderedDict

from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.engine.live import before_last_label
from smft_lab.finetuning.engine.proof import config_of
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.model.tokenizer import only_answers
from smft_lab.recipe import Recipe


class Batching:
    """Encodes the batches of one run, and keeps those that come back pass after pass.

    Args:
        recipe: Whether slots are chosen beforehand, and by which reads.
        cache: Batches of earlier runs of the same facts, by what they are of; this run's are added.
    """

    def __init__(self, lab: Lab, teaching: Teaching, recipe: Recipe | None, cache: dict[tuple, Batch] | None):
        self.lab, self.teaching, self.cache = lab, teaching, cache
        self._config = config_of(lab.model)  # what is computed of a batch depends on it
        # Slots chosen beforehand change wherever they are read.
        self._everywhere = recipe is not None and (recipe.choice == "group" or recipe.counted != "answer")
        self._grouped = recipe is not None and recipe.chooses_first(teaching.order)
        # There a batch, or its texts in other company, come back pass after pass.
        again = {"stream": 4 * len(teaching.facts), "mixed": 2 * teaching.per_pass}
        self._most = again.get(teaching.order, 1)
        self._latest: OrderedDict[tuple, Batch] = OrderedDict()
        self._used: set[tuple] = set()

    def batch(self, owners: tuple[int, ...], texts: tuple[str, ...]) -> Batch:
        """The batch of some texts and the facts they are of."""
        key = (owners, texts, self.teaching.loss_on, self._everywhere, self._config)
        if key not in self._latest:
            self._used.add(key)
            self._latest[key] = self._known(key) or self._new(key, owners, texts)
            if len(self._latest) > self._most:
                self._latest.popitem(last=False)
        self._latest.move_to_end(key)
        return self._latest[key]

    def mixed_batch(self, owners: tuple[int, ...], texts: tuple[str, ...], others: list[str]) -> Batch:
        """The batch of some texts, with others beside them that are learned whole, and whose reads do not count."""
        return self._encoded(owners, texts, others)

    def _known(self, key: tuple) -> Batch | None:
        return self.cache[key].for_another_run() if self.cache and key in self.cache else None

    def _new(self, key: tuple, owners: tuple[int, ...], texts: tuple[str, ...]) -> Batch:
        batch = self._encoded(owners, texts)
        if self.cache is not None:
            self.cache[key] = batch
        return batch

    def _encoded(self, owners: tuple[int, ...], texts: tuple[str, ...], others: list[str] | None = None) -> Batch:
        tokenizer, facts = self.lab.tokenizer, self.teaching.owners
        inputs = self.lab.encode([*texts, *(others or [])])
        counted = inputs["attention_mask"].clone()
        if self.teaching.loss_on == "answer":
            predicting = only_answers(tokenizer, texts, [facts[i].answers for i in owners], inputs)
            if others is None and not self._everywhere:
                counted = predicting
        counted[len(texts) :] = 0
        if self._grouped:  # a row that is read only behind the last label has nothing to learn
            counted = counted * before_last_label(inputs["labels"])
        return Batch(inputs, counted, tuple(sorted(set(owners))), once=others is not None)

    def drop_others(self) -> None:
        """Drop what earlier runs left and this one had no use for: and it would pile up."""
        if self.cache is not None:
            for key in set(self.cache) - self._used:
                del self.cache[key]


def forget_live(cache: dict[tuple, Batch] | None) -> None:
    """Drop what is of one run's slots alone."""
    for batch in (cache or {}).values():
        batch.live = None
