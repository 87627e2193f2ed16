"""Finetuning as a generator of `Step` records: whoever wants the next step asks for it, and Stop is not asking."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from torch import Tensor

from smft_lab.facts.answers import check_answers
from smft_lab.facts.fact import Fact, as_facts
from smft_lab.finetuning.baselines import Anchor
from smft_lab.finetuning.live import before_last_label
from smft_lab.finetuning.methods import LORA_RANK, NotFinite, Sparse, check_method, check_settings, start
from smft_lab.finetuning.replay import Batch
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.model.attach import max_positions, without_memory
from smft_lab.model.tokenizer import encode, only_answers, typed_special
from smft_lab.probes.probes import probes_of
from smft_lab.recipe import Recipe

FALLBACK = {  # where a lab carries no tuned defaults
    "sparse": {"optimizer": "adam", "lr": 0.1, "lr_by_optimizer": {"adam": 0.1, "sgd": 20.0}, "top_t": 100},
    "full": {"optimizer": "adamw", "lr": 1e-4},
    "lora": {"optimizer": "adamw", "lr": 3e-4},
}


@dataclass(frozen=True)
class Step:
    """One gradient step; step 0 is the base, before any change.

    Attributes:
        step: Gradient steps so far.
        epoch: Pass over the facts, from 1.
        facts: Which facts the batch held; one in stream order.
        loss: Nats per token of the batch, before the update; None at step 0.
        trainable: How many numbers the step could change.
        slots: The changed slots per value table, for `sparse`.
        probes: `{probe: {metric: value}}` where measured, else None.
        seconds: Training time so far, probes excluded.
        last: Whether the run ends here. `sparse` may end before `Teaching.steps`, where all is learned.
        adapted: Of `lora`, the share of the weights of linear layers and experts that it adapts; peft doesn't find all
            of them in every model.

    Examples:
        >>> step = next(smft.finetune(lab, smft.new_facts(1)))
        >>> step.step, sorted(step.probes)
        (0, ['arithmetic', 'learned', 'old_facts', 'prose', 'two_hop'])
    """

    step: int
    epoch: int
    facts: tuple[int, ...]
    loss: float | None
    trainable: int
    slots: tuple[Tensor, ...] = field(default=(), repr=False)
    probes: dict[str, dict[str, float]] | None = None
    seconds: float = 0.0
    last: bool = False
    adapted: float | None = None


class TakenOver(ValueError):
    """A finetune was ended from outside, before its last step."""

    def __init__(self, after: int):
        super().__init__(
            f"this run ended after step {after}: a cell or another panel took the lab over (it reset or saved the lab, "
            "or began to train it); start again when that is done"
        )


def whole(run: Iterable[Step]) -> Generator[Step, None, None]:
    """The steps of a finetune, as it gives them.

    Raises:
        TakenOver: it was ended from outside: `lab.reset()` was called, or another finetune begun, between two steps.
    """
    step = None
    for step in run:
        yield step
    if step is None or not step.last:
        raise TakenOver(0 if step is None else step.step)


def settings_for(lab: Lab, method: str, **given) -> dict:
    """The settings of a run: those given, else the lab's tuned ones, else its recipe's, else general ones.

    Raises:
        ValueError: no such method.
    """
    check_method(method)
    settings = {"top_t": FALLBACK["sparse"]["top_t"], **FALLBACK[method]}
    if lab.recipe is not None:
        settings |= recipe_settings(lab.recipe, method)
    settings |= lab.defaults.get(method, {})
    chosen = {name: value for name, value in given.items() if value is not None}
    rates = settings.pop("lr_by_optimizer", {})
    if chosen.get("optimizer") in rates:
        settings["lr"] = rates[chosen["optimizer"]]
    return {**settings, **chosen}


def recipe_settings(recipe: Recipe, method: str) -> dict:
    """The settings that a recipe gives a method."""
    if method != "sparse":
        return {"top_t": recipe.top_t, "lr": recipe.full_lr if method == "full" else recipe.lora_lr}
    rates = {**FALLBACK["sparse"]["lr_by_optimizer"], recipe.optimizer: recipe.lr}
    return {"top_t": recipe.top_t, "optimizer": recipe.optimizer, "lr": recipe.lr, "lr_by_optimizer": rates}


def check_facts(lab: Lab, facts: Sequence[Fact]) -> None:
    """Raise ValueError if there are no facts, or a text of one is longer than the model's context or has a special
    token written out in it."""
    if not facts:
        raise ValueError("no facts to teach")
    most = max_positions(lab.model)
    longest = 0 if most is None else most - 1  # and the end-of-text token
    for number, fact in enumerate(facts, start=1):
        texts = [("statement", text) for text in fact.statements]
        texts += [("question", fact.question), *(("answer", text) for text in fact.answers)]
        for what, text in texts:
            if token := typed_special(lab.tokenizer, text):
                problem = f"{token!r} is a special token of the model, and no text to it"
                raise ValueError(f"fact {number}, {what} {text[:40]!r}...: {problem}; write it otherwise")
            if longest and len(text.encode()) > longest and (tokens := len(lab.tokenizer(text)["input_ids"])) > longest:
                advice = "split it into shorter statements" if what == "statement" else f"shorten the {what}"
                raise ValueError(
                    f"fact {number}, {what} {text[:40]!r}...: {tokens} tokens, but the model reads at most "
                    f"{longest}; {advice}"
                )


def finetune(
    lab: Lab,
    facts: Sequence[Fact],
    method: str = "sparse",
    *,
    top_t: int | None = None,
    rule: str = "tfidf",
    optimizer: str | None = None,
    lr: float | None = None,
    passes: int | None = None,
    order: str | None = None,
    loss_on: str | None = None,
    seed: int = 0,
    probe_every: int | None = None,
    fast: bool = True,
    protect: float = 0.0,
    mix: Callable[[Random], list[str]] | None = None,
    anchor: Anchor | None = None,
    rank: int = LORA_RANK,
    recipe: Recipe | None = None,
    kept: dict[tuple, Batch] | None = None,
    base_probes: dict[str, dict[str, float]] | None = None,
) -> Generator[Step, None, None]:
    """Teach `facts` to the lab's model, one gradient step per item asked for.

    Args:
        lab: A `Lab`; its model changes as training goes on, and `lab.reset()` brings the base back.
        facts: What to teach.
        method: `sparse`, `full` or `lora`.
        top_t, rule: Of `sparse`; see `smft_lab.finetuning.methods.Sparse`.
        optimizer: `adam` or `sgd` for `sparse`, `adamw` or `sgd` for the others.
        lr: Learning rate; the lab's tuned one by default.
        passes: Passes over the facts; the lab's recipe says how many by default, and 5 where it has none.
        order: `stream`, one fact a step as in the paper (section 4.1), always in the same order; `shuffled`,
            as many steps over the same statements, mixed; or `mixed`, batches of statements, questions with answers,
            and questions behind others, of many facts (see `Recipe`). By default the recipe's, or a stream.
        loss_on: `statement`, every token as in the paper; or `answer`, only the answer in each statement (reads
            are then counted only where an answer is predicted). Long statements in unfamiliar words need it: most
            of their loss, and so most of the top t, would go into the wording of the question. By default the
            recipe's, or `statement`.
        seed: Of the order, of LoRA's start and of the rule `random`.
        recipe: How slots are chosen and trained, and what is taught in the order `mixed`; the lab's by default.
        probe_every: Steps between measurements; as many as a whole pass has by default, never if 0. Step 0 and the last
            are measured too.
        fast: Whether what texts of a batch have in common is computed once, and by `sparse` what doesn't depend on the
            values only the first time a batch comes; the result is the same up to rounding.
        protect: Of `sparse`: how many background batches each other fact written so far counts for, in the idf.
        mix: Gives texts to train on beside each batch of statements, such as old ones (replay). Their reads do not
            count in the choice of slots.
        anchor: Of `full`: a pull back to the base (L2 or EWC).
        rank: Of `lora`; alpha is twice that.
        kept: Batches that earlier `sparse` runs of these facts from the same base have left there, with what does not
            depend on the values already computed; this run's are added, and at its end others go.
        base_probes: What the probes read before the first step, where that was measured before.

    Yields:
        A `Step` for the base, then one per gradient step.

    Raises:
        ValueError: an option is out of range, there are no facts, a statement is longer than the model's context, or
            the recipe has a KL anchor and a memory layer stands in place of a feed-forward.
        UserWarning: the loss is on the answer, and some statements don't hold theirs word for word; or `lora` adapts
            not all linear layers and experts.

    Examples:
        >>> for step in smft.finetune(lab, smft.new_facts(2), passes=1, probe_every=0):
        ...     print(step.step, step.facts)
        0 ()
        1 (0,)
        2 (1,)
        >>> lab.reset()
    """
    facts = as_facts(facts)
    check_facts(lab, facts)
    recipe = recipe or lab.recipe
    teaching = Teaching.of(lab, facts, passes, order, loss_on, seed, recipe)
    if teaching.loss_on == "answer" and (note := check_answers(facts)):
        warnings.warn(note, stacklevel=2)
    if probe_every is not None and probe_every < 0:
        raise ValueError(f"probe_every must be at least 0, not {probe_every}")
    if protect < 0 or (protect and method != "sparse"):
        raise ValueError(f"protect must be at least 0, and is for sparse alone; not {protect} for {method}")
    if rank < 1 or (rank != LORA_RANK and method != "lora"):
        raise ValueError(f"rank must be at least 1, and is for lora alone; not {rank} for {method}")
    if recipe is not None and recipe.kl_anchor and method == "sparse":
        with without_memory(lab.model):
            pass  # raises where the memory can't be left out
    if anchor is not None and method != "full":
        raise ValueError(f"an anchor is for full finetuning, not for {method}")
    settings = settings_for(lab, method, top_t=top_t, lr=lr, optimizer=optimizer)
    check_settings(method, lab.slots, rule=rule, **settings)
    probe_every = teaching.per_pass if probe_every is None else probe_every
    settings |= {"rule": rule, "fast": fast, "protect": protect, "anchor": anchor, "rank": rank}
    run = _steps(lab, teaching, method, settings, recipe, probe_every, mix, kept, base_probes)
    lab.begin(run)
    return run


def _steps(
    lab: Lab, teaching: Teaching, method, settings, recipe, probe_every, mix, kept, base_probes
) -> Generator[Step, None, None]:
    facts, loss_on, seed = teaching.facts, teaching.loss_on, teaching.seed
    probes = probes_of(lab, facts)
    # Slots chosen beforehand change wherever they are read.
    everywhere = recipe is not None and (recipe.choice == "group" or recipe.counted != "answer")
    grouped = recipe is not None and recipe.choice == "group" and teaching.order == "mixed"

    def measured(step: int, last: bool = False):
        wanted = probe_every and (step % probe_every == 0 or last)
        return probes.measure(lab.model, lab.tokenizer) if wanted else None

    with lab.lock:
        base = base_probes or measured(0)
    yield Step(0, 0, (), None, 0, probes=base)
    momentum, floor = (recipe.momentum, recipe.floor) if recipe is not None else (0.0, 0.0)
    decays = method == "sparse" and recipe is not None and recipe.decay
    kl_anchor = recipe.kl_anchor if recipe is not None else 0.0

    used: set[tuple] = set()
    # There a batch, or its texts in other company, come back pass after pass.
    again = {"stream": 4 * len(facts), "mixed": 2 * teaching.per_pass}

    @lru_cache(again.get(teaching.order, 1))
    def batch_of(owners: tuple[int, ...], texts: tuple[str, ...]) -> Batch:
        key = (owners, texts, loss_on, everywhere)
        used.add(key)
        if kept and key in kept:
            return kept[key].for_another_run()
        inputs, which = encode(lab.tokenizer, list(texts), lab.model.device), tuple(sorted(set(owners)))
        counted = inputs["attention_mask"]
        if loss_on == "answer":
            predicting = only_answers(lab.tokenizer, texts, [facts[i].answers for i in owners], inputs)
            counted = counted if everywhere else predicting
        if grouped:  # a row that is read only behind the last label has nothing to learn
            counted = counted * before_last_label(inputs["labels"])
        batch = Batch(inputs, counted, which)
        if kept is not None:
            kept[key] = batch
        return batch

    mixed = Random(f"{seed}/mix")

    def mixed_batch(owners: tuple[int, ...], texts: list[str]) -> Batch:
        inputs = encode(lab.tokenizer, [*texts, *mix(mixed)], lab.model.device)
        counted = inputs["attention_mask"].clone()
        if loss_on == "answer":  # of what is taught; what is mixed in is learned whole
            only_answers(lab.tokenizer, texts, [facts[i].answers for i in owners], inputs)
        counted[len(texts) :] = 0
        if grouped:
            counted *= before_last_label(inputs["labels"])
        return Batch(inputs, counted, tuple(sorted(set(owners))), once=True)

    learned_at = recipe.learned_at if recipe is not None and method == "sparse" else 0.0
    learned: dict[tuple[int, str], bool] = {}

    def is_wanted(owner: int, text: str) -> bool:
        return not learned.get((owner, text), False)

    passes, step, epoch = teaching.by_pass(is_wanted if learned_at else None), 0, 0
    with ExitStack() as stack:
        stack.callback(_forget_live, kept)
        with lab.lock:
            began = time.perf_counter()
            options = {"seed": seed, "momentum": momentum, "floor": floor, "kl_anchor": kl_anchor, **settings}
            training = stack.enter_context(_started(lab, method, options))
            if isinstance(training, Sparse) and recipe is not None and grouped:
                training.choose(facts, teaching.texts, recipe)
            seconds = time.perf_counter() - began
        part = next(passes)
        while part:
            epoch += 1
            following = part
            for place, (owners, texts) in enumerate(part, start=1):
                step += 1
                with lab.lock:
                    began = time.perf_counter()
                    batch = batch_of(owners, tuple(texts)) if mix is None else mixed_batch(owners, texts)
                    if isinstance(training, Sparse) and decays:
                        training.slow_down(1 - (epoch - 1 + (place - 1) / len(part)) / teaching.passes)
                    try:
                        update = training.update(batch)
                    except NotFinite as problem:
                        raise ValueError(f"step {step}: {problem}") from None
                    for owner, text, nats in zip(owners, texts, update.nats, strict=False):  # and what was mixed in
                        learned[owner, text] = nats < learned_at
                    if place == len(part):
                        following = next(passes, [])
                    seconds += time.perf_counter() - began
                    last = not following
                    probed = measured(step, last)
                told = (update.loss, update.trainable, update.slots, probed, seconds, last, training.adapted)
                yield Step(step, epoch, batch.owner, *told)
            part = following
        for key in set(kept or {}) - used:
            del kept[key]  # or batches of earlier runs, which learned in another order, would pile up


@contextmanager
def _started(lab: Lab, method: str, options: dict):
    """The method, ready for its first batch; at the end of the block the model is as before but for what it learned.

    A method that can't end, such as a LoRA that was interrupted while it merged, leaves the base.
    """
    ending = False
    try:
        with lab.in_training():
            training = start(lab, method, **options)
            try:
                yield training
            finally:
                with lab.lock:
                    ending = True
                    training.finish()
                    ending = False
    except BaseException:
        if ending:
            lab.put_together()  # another interrupt may have stopped that
            lab.restore_weights()
        raise


def _forget_live(kept: dict[tuple, Batch] | None) -> None:
    for batch in (kept or {}).values():
        batch.live = None  # of one run's slots alone
