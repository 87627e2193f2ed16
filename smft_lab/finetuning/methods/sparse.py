"""Sparse memory finetuning: only the value rows of the batch's top-t slots move (paper section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from smft_lab.facts.fact import Fact
from smft_lab.finetuning.engine.frozen_layers import Batch, Engine
from smft_lab.finetuning.engine.packing import as_rows
from smft_lab.finetuning.engine.products import RoundedWeights
from smft_lab.finetuning.engine.proof import engine_of, form_of
from smft_lab.finetuning.method import Method, Training, Update, check_finite, register, required
from smft_lab.finetuning.rows import OPTIMIZERS
from smft_lab.finetuning.teaching import TaughtText, Teaching, counted_reads
from smft_lab.lab import Lab
from smft_lab.model.attach import without_memory
from smft_lab.model.memory import value_tables
from smft_lab.ranges import check_not_negative
from smft_lab.recipe import Recipe
from smft_lab.slots.anchor import Anchor, added
from smft_lab.slots.group import choose_slots
from smft_lab.slots.scores import check_rule, check_top_t
from smft_lab.slots.selection import Selection, freeze_all_but_values

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32

TOP_T = 100  # where a lab has none tuned
TRIED = (200, 500, 1000, 2000)  # t that a sweep tries, each with every rate


@register
@dataclass(frozen=True, kw_only=True)
class Sparse(Method):
    """Sparse memory finetuning: only the value rows of the batch's top-t slots move (paper section 3).

    Args:
        top_t: t, rows per step and table, at least 1 and at most the lab's slots; ignored under the rule `all`.
        rule: How slots are scored: `tfidf` (paper), `tf`, `idf`, `kl`, `random` or `all`; see
            `smft_lab.slots.scores.score`.
        protect: How many background batches each other fact written so far counts for, in the idf; at least 0.
        lr: Learning rate; the lab's tuned one by default.
        optimizer: `adam` (row-wise) or `sgd` (paper).
        mix, fast: See `Method`.

    Raises:
        ValueError: a setting is out of range.

    Examples:
        >>> steps = list(smft.finetune(lab, smft.new_facts(1), smft.Sparse(top_t=20), passes=1, probe_every=0))
        >>> len(steps[-1].slots[0])
        20
        >>> lab.reset()
    """

    key = "sparse"
    title = "Sparse memory finetuning"
    short = "Sparse"
    about = "Trains only the values of the top-t slots, and leaves every other number of the model as it was."
    optimizers = tuple(OPTIMIZERS)
    usual: ClassVar = {"adam": 0.1, "sgd": 20.0}
    rates: ClassVar = {"sgd": (10.0, 20.0, 40.0, 80.0), "adam": (0.025, 0.05, 0.1, 0.2)}
    sparse = True

    top_t: int | None = None
    rule: str = "tfidf"
    protect: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule)
        check_not_negative(protect=self.protect)

    @classmethod
    def variant(cls, name: str, **settings) -> Self:
        return cls(**{**settings, "rule": name})

    @property
    def name(self) -> str:
        return self.key if self.rule == "tfidf" else f"{self.key}:{self.rule}"

    def of_recipe(self, recipe: Recipe) -> dict[str, Any]:
        rates = {**self.usual, recipe.optimizer: recipe.lr}
        return {"top_t": recipe.top_t, "optimizer": recipe.optimizer, "lr": recipe.lr, "lr_by_optimizer": rates}

    def resolved(self, lab: Lab, recipe: Recipe | None = None) -> Self:
        known = super().resolved(lab, recipe)
        return known if known.top_t is not None else replace(known, top_t=TOP_T)

    def check(self, lab: Lab, recipe: Recipe | None = None) -> None:
        check_top_t(required(self.top_t), lab.slots)
        if recipe is not None and recipe.kl_anchor:
            with without_memory(lab.model):
                pass  # raises where the memory can't be left out

    def candidates(self, lab: Lab) -> list[Self]:
        sizes = [t for t in TRIED if t <= lab.slots] or [lab.slots]
        return [
            replace(candidate, top_t=t)
            for candidate in super().candidates(lab)
            for t in (sizes if self.top_t is None else [self.top_t])
        ]

    def start(self, lab: Lab, seed: int = 0, recipe: Recipe | None = None) -> SparseTraining:
        return SparseTraining(lab, self, seed, recipe)


class SparseTraining(Training):
    """`Sparse` at work.

    Args:
        settings: A resolved one.
        seed: Of the rule `random`.
        recipe: Gives the momentum and floor of `adam` (see `RowAdam`), whether the rate falls, the anchors, and when a
            text is learned.
    """

    def __init__(self, lab: Lab, settings: Sparse, seed: int = 0, recipe: Recipe | None = None):
        optimizer, lr, top_t = required(settings.optimizer), required(settings.lr), required(settings.top_t)
        self.lab, self.top_t, self.rule, self.seed, self.lr = lab, top_t, settings.rule, seed, lr
        self.kl_anchor, self.anchor, self._decays = 0.0, 0.0, False
        options: dict[str, float] = {}
        if recipe is not None:
            self.kl_anchor, self.anchor = recipe.kl_anchor, recipe.anchor
            self._decays, self.learned_at = recipe.decay, recipe.learned_at
            options = {"momentum": recipe.momentum, "floor": recipe.floor} if optimizer == "adam" else {}
        self.fast = settings.fast and not self.kl_anchor
        self.tables = value_tables(lab.model)
        self.optimizers = [OPTIMIZERS[optimizer](table.weight, lr, **options) for table in self.tables]
        self.selection = Selection(lab.model, lab.usage, top_t, settings.rule, seed, settings.protect)
        self.engines: dict[tuple[bool, bool], Engine | None] = {}  # by what of a form has to be proven of its own
        self.rounded: RoundedWeights | None = None
        self._recipe, self._stack = recipe, ExitStack()
        self.anchors: list[Anchor] = []  # per table, where the recipe has one

    def begin(self, teaching: Teaching | None = None) -> None:
        freeze_all_but_values(self.lab.model)
        if self.fast and RoundedWeights.suit(self.lab.model):  # which is of frozen layers
            self.rounded = RoundedWeights()
        self._stack.enter_context(self.selection.observing())
        if teaching is not None and self._recipe is not None and self._recipe.chooses_first(teaching.order):
            self._choose(teaching.owners, teaching.texts, self._recipe)

    def _choose(self, facts: Sequence[Fact], texts: Sequence[TaughtText], recipe: Recipe) -> None:
        """Choose the slots that may change for all the texts at once, before any of them is taught."""
        owners, reads = counted_reads(self.lab, facts, texts, recipe.counted)
        usage, top_t, rule, seed = self.lab.usage, self.top_t, self.rule, self.seed
        chosen = choose_slots(usage, owners, reads, top_t, rule=rule, seed=seed, **recipe.choosing)
        self.selection.choose_from(chosen)
        if self.anchor:
            reads = self.lab.background_reads()
            tables = [table.weight for table in self.tables]
            self.anchors = [Anchor(*parts) for parts in zip(chosen, tables, reads, strict=True)]

    def proceed(self, done: float) -> None:
        if self._decays:
            for optimizer in self.optimizers:
                optimizer.lr = (1 - done) * self.lr

    def update(self, batch: Batch) -> Update:
        with self.selection.training():  # and not between steps, where a caller may take gradients of its own
            return self._update(batch)

    def _update(self, batch: Batch) -> Update:
        self.selection.expect(batch.counted, batch.memo, batch.owner)
        loss, nats = self._loss_from_cache(batch) if self.fast else (None, None)
        drift = 0.0
        if loss is None or nats is None:
            before = self._before(batch) if self.kl_anchor else None  # first: the selection counts the last reads
            outputs = self.lab.model(**batch.inputs)
            loss = outputs.loss
            nats = _worst_of_text(batch, outputs.logits)
            if before is not None:
                after = outputs.logits[_unlabelled(batch)].float().log_softmax(-1)
                drift = functional.kl_div(after, before, log_target=True, reduction="batchmean")
        # Within it the batch's slots are chosen, as soon as all its reads are counted (see `Selection`).
        (loss + self.kl_anchor * drift).backward()
        slots = self.selection.slots
        grads = [table.take_gradient() for table in self.tables]
        check_finite(self.lab.model, loss.detach(), [grad.values() for grad in grads])
        for table, (optimizer, grad) in enumerate(zip(self.optimizers, grads, strict=True)):
            rows, values = grad.indices()[0], grad.values()
            if self.anchors:
                others, held = self.anchors[table].gradients()
                rows, values = added(rows, values, others, self.anchor * held)
            optimizer.step(rows, values)
        self.selection.log_writes()
        width = self.tables[0].weight.shape[1]
        return Update(loss.item(), sum(map(len, slots)) * width, slots, tuple(nats.tolist()))

    @torch.no_grad()
    def _before(self, batch: Batch) -> Float32[Tensor, "positions V"]:
        """Log-probabilities of the model without its memory where nothing taught is predicted."""
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        with without_memory(self.lab.model):
            return self.lab.model(**inputs).logits[_unlabelled(batch)].float().log_softmax(-1)

    def _loss_from_cache(self, batch: Batch) -> tuple[Float[Tensor, ""] | None, Float32[Tensor, " B"] | None]:
        """The loss, and each text's, without computing what is known; None for a model that can't be run so."""
        form = form_of(self.lab.model, batch, self.selection.chosen is not None, self.rounded)
        kind = form.packed, form.branches
        if kind not in self.engines:
            self.engines[kind] = engine_of(self.lab.model, batch, form, self.selection, self.rounded)
        engine = self.engines[kind]
        if engine is None:
            self.fast = False
            return None, None
        return engine.loss(batch, form), engine.nats

    def finish(self) -> None:
        self._stack.close()


@torch.no_grad()
def _worst_of_text(batch: Batch, logits: Float[Tensor, "B T V"]) -> Float32[Tensor, " B"]:
    """The loss of the least likely label of each text, from the logits of all."""
    targets = as_rows(batch.inputs, batch.counted).targets
    predicting = logits.flatten(0, 1)[targets.predicting]
    return targets.worst_of_text(targets.nats(predicting), len(logits))


def _unlabelled(batch: Batch) -> Bool[Tensor, "B T"]:
    """Positions of texts that predict no label."""
    following = functional.pad(batch.inputs["labels"][:, 1:], (0, 1), value=-100)
    return (following == -100) & batch.inputs["attention_mask"].bool()
