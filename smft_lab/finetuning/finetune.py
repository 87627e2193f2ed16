"""Finetuning as a generator of `Step` records: whoever wants the next step asks for it, and Stop is not asking."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smft_lab.facts.answers import check_answers
from smft_lab.facts.fact import Fact, as_facts
from smft_lab.finetuning.batching import Batching, forget_live
from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.method import NotFinite, Training
from smft_lab.finetuning.methods import Method, method_of
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.model.attach import input_weight, max_positions
from smft_lab.model.modes import leave_router_loss
from smft_lab.model.tokenizer import text_ids, typed_special
from smft_lab.probes.probes import match_of, probes_of
from smft_lab.probes.text import MATCHES
from smft_lab.ranges import check_counts, check_seeds
from smft_lab.recipe import Recipe

if TYPE_CHECKING:
    from jaxtyping import Int64
    from transformers import PreTrainedTokenizerBase

JOINED = (
    "what is taught is not what is asked: the tokenizer joins the end of a question with the beginning of its answer; "
    "let the answer begin with a blank or a line of its own, by the before of a PromptForm or the chat template"
)

SELDOM = 20  # steps from one measurement to the next, at least: measuring takes as long as many steps of few facts


@dataclass(frozen=True)
class Step:
    """One gradient step; step 0 is the base, before any change.

    Attributes:
        step: Gradient steps so far.
        passes: Passes over the facts so far, this one with them.
        facts: Which facts the batch held, earlier ones counted on from those that are taught; one in stream order.
        loss: Nats per token of the batch, before the update; None at step 0.
        trainable: How many numbers the step could change.
        slots: The changed slots per value table, for `sparse`.
        probes: `{probe: {metric: value}}` where measured, else None.
        seconds: Training time so far, probes excluded.
        last: Whether the run ends here. `sparse` may end before `Teaching.steps`, where all is learned.
        adapted: Of adapters (`lora`, `osf`), the share of the weights of linear layers and experts that they stand
            beside; peft doesn't find all of them in every model.

    Examples:
        >>> step = next(smft.finetune(lab, smft.new_facts(1)))
        >>> step.step, sorted(step.probes)
        (0, ['arithmetic', 'learned', 'old_facts', 'prose', 'two_hop'])
    """

    step: int
    passes: int
    facts: tuple[int, ...]
    loss: float | None
    trainable: int
    slots: tuple[Int64[Tensor, " _rows"], ...] = field(default=(), repr=False)
    probes: dict[str, dict[str, float]] | None = None
    seconds: float = 0.0
    last: bool = False
    adapted: float | None = None


class TakenOver(ValueError):
    """A finetune was ended from outside, before its last step."""

    def __init__(self, after: int):
        self.after = after
        super().__init__(
            f"this run ended after step {after}: a cell or another panel took the lab over (it reset or saved the lab, "
            "or began to train it); start again when that is done"
        )

    def __reduce__(self):
        return type(self), (self.after,)


def all_steps(run: Iterable[Step]) -> Generator[Step, None, None]:
    """The steps of a finetune, as it gives them.

    Raises:
        TakenOver: it was ended from outside: `lab.reset()` was called, or another finetune begun, between two steps.
    """
    step = None
    for step in run:
        yield step
    if step is None or not step.last:
        raise TakenOver(0 if step is None else step.step)


def check_facts(lab: Lab, facts: Sequence[Fact]) -> None:
    """Raise ValueError if there are no facts, or a text of one is longer than the model's context, has a special token
    written out in it, or has tokens that the model or, in an answer, the tokenizer doesn't know."""
    if not facts:
        raise ValueError("no facts to teach")
    most = max_positions(lab.model)
    longest = 0 if most is None else most - 1  # and the end-of-text token
    _check_answers_known(lab.tokenizer, facts)
    if len(lab.tokenizer) > len(input_weight(lab.model)):
        for fact in facts:
            lab.encode([*fact.statements, fact.question, *fact.questions, *fact.answers])
    for number, fact in enumerate(facts, start=1):
        texts = [("statement", text) for text in fact.statements]
        texts += [("question", text) for text in (fact.question, *fact.questions)]
        texts += [("answer", text) for text in fact.answers]
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


def _check_answers_known(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> None:
    """Raise ValueError if an answer that is taught has a token that stands for all that the tokenizer has none for."""
    if (unknown := tokenizer.unk_token_id) is None:
        return
    answers = [fact.answer for fact in facts]
    for number, (text, row) in enumerate(zip(answers, text_ids(tokenizer, answers, special=False), strict=True), 1):
        if unknown in row:
            raise ValueError(
                f"fact {number}, answer {text[:40]!r}: the tokenizer has no tokens for all of it, so the model can't "
                "say it; write it otherwise"
            )


def _written_otherwise(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> str | None:
    """What to tell of answers that come back from the tokenizer as others, so that no reply could count as right."""
    right, _ = MATCHES[match_of(facts)]
    written = tokenizer.batch_decode(text_ids(tokenizer, [fact.answer for fact in facts], special=False))
    others = [(fact.answer, text) for fact, text in zip(facts, written, strict=True) if not right(text, fact.answers)]
    if not others:
        return None
    (answer, other), count = others[0], len(others)
    return (
        f"{count} of {len(facts)} answers can't be said as they are, and will hardly count as learned: the tokenizer "
        f"makes {other[:40]!r} of {answer[:40]!r}; give what it makes of them as accepted answers, too"
    )


def finetune(
    lab: Lab,
    facts: Sequence[Fact],
    method: str | Method = "sparse",
    *,
    passes: int | None = None,
    order: str | None = None,
    loss_on: str | None = None,
    seed: int = 0,
    probe_every: int | None = None,
    recipe: Recipe | None = None,
    cache: dict[tuple, Batch] | None = None,
    base_probes: dict[str, dict[str, float]] | None = None,
    earlier: Sequence[Fact] = (),
    **settings: Any,
) -> Generator[Step, None, None]:
    """Teach `facts` to the lab's model, one gradient step per item asked for.

    Args:
        lab: A `Lab`; its model changes as training goes on, and `lab.reset()` brings the base back.
        facts: What to teach.
        method: A method with its settings, such as `smft.Sparse(top_t=100)`, or its key: `sparse`, `full`, `lora`,
            `replay` or `osf` (see `smft_lab.finetuning.methods`).
        passes: Passes over the facts; the lab's recipe says how many by default, and 12 where it has none.
        order: `stream`, one fact a step as in the paper (section 4.1), in an order drawn from `seed` and repeated in
            each pass; `shuffled`, as many steps over the same statements, mixed; or `mixed`, batches of statements,
            questions with answers, and questions behind others, of many facts (see `Recipe`). By default the recipe's,
            or a stream.
        loss_on: `statement`, every token as in the paper; or `answer`, only the answer in each statement (reads
            are then counted only where an answer is predicted). Long statements in unfamiliar words need it: most
            of their loss, and so most of the top t, would go into the wording of the question. By default the
            recipe's, or `statement`.
        seed: Of the order, of the start of adapters and of the rule `random`.
        probe_every: Steps between measurements; by default as many as a pass has, and at least 20. The base and
            the last step are measured as well. 0 measures nothing.
        recipe: How slots are chosen and trained, and what is taught in the order `mixed`; the lab's by default.
        cache: Batches that earlier `sparse` runs of these facts from the same base have left there, with what does not
            depend on the values already computed; this run's are added, and at its end others go.
        base_probes: What the probes read before the first step, where that was measured before.
        earlier: Facts that were taught before, in the order `mixed`. They are rehearsed: their questions come along,
            each until it is learned (again), and they are a probe of their own. Those that ask what `facts` answer
            anew are left out.
        settings: Settings of a method that is given by its key: `top_t=100` is short for `smft.Sparse(top_t=100)`.

    Yields:
        A `Step` for the base, then one per gradient step.

    Raises:
        ValueError: an option is out of range or none of the method's, there are no facts, a statement is longer than
            the model's context, holds a special token of the tokenizer or tokens that the model lacks, earlier facts
            are given in another order than `mixed`, or the recipe has a `kl_anchor` and a memory layer stands in place
            of a feed-forward. On the way: a loss or gradient isn't finite.

    Warns:
        UserWarning: the loss is on the answer, and some statements don't hold theirs word for word; or the tokenizer
            makes others of some answers, or joins them with the end of the question; or adapters stand beside not all
            linear layers and experts.

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
    if earlier := as_facts(earlier):
        check_facts(lab, earlier)
    recipe = recipe or lab.recipe
    chosen = method_of(method, **settings).resolved(lab, recipe)
    check_seeds(seed)
    seed = int(seed)  # of another library, too
    teaching = Teaching.of(lab, facts, passes, order, loss_on, seed, recipe, earlier)
    if teaching.loss_on == "answer" and (note := check_answers(facts)):
        warnings.warn(note, stacklevel=2)
    if note := _written_otherwise(lab.tokenizer, facts):
        warnings.warn(note, stacklevel=2)
    if teaching.order == "mixed" and lab.form.joins(lab.tokenizer, facts[0].question, facts[0].answer):
        warnings.warn(JOINED, stacklevel=2)
    if probe_every:
        check_counts(probe_every=probe_every)
    chosen.check(lab, recipe)
    every = max(teaching.per_pass, SELDOM) if probe_every is None else probe_every
    stop = threading.Event()
    run = _steps(lab, teaching, chosen, recipe, every, cache, base_probes, stop)
    lab.begin(run, stop)
    return run


def _steps(
    lab: Lab,
    teaching: Teaching,
    method: Method,
    recipe: Recipe | None,
    probe_every: int,
    cache: dict[tuple, Batch] | None,
    base_probes: dict[str, dict[str, float]] | None,
    stop: threading.Event,
) -> Generator[Step, None, None]:
    """The steps of `finetune`; they end where `stop` is set when it is their turn to have the lab's lock."""
    probes = probes_of(lab, teaching.facts, teaching.earlier)

    def measured(step: int, last: bool = False):
        wanted = probe_every and (step % probe_every == 0 or last)
        return probes.measure(lab.model, lab.tokenizer) if wanted else None

    with lab.lock:
        if stop.is_set():
            return
        base = base_probes or measured(0)
    yield Step(0, 0, (), None, 0, probes=base)
    batching, drawn = Batching(lab, teaching, recipe, cache), Random(f"{teaching.seed}/mix")
    learned: set[tuple[int, str]] = set()
    step, number = 0, 0
    with ExitStack() as stack:
        stack.callback(forget_live, cache)
        with lab.lock, _gradients():
            if stop.is_set():
                return
            began = time.perf_counter()
            mix = method.mixing(lab)
            training = stack.enter_context(_started(lab, method, teaching, recipe))
            passes = teaching.by_pass((lambda *text: text not in learned) if training.learned_at else None)
            seconds = time.perf_counter() - began
        part = next(passes)
        while part:
            number += 1
            following = part
            for place, (owners, texts) in enumerate(part, start=1):
                step += 1
                with lab.lock, _gradients():
                    if stop.is_set():
                        return
                    began = time.perf_counter()
                    if mix is None:
                        batch = batching.batch(owners, tuple(texts))
                    else:
                        batch = batching.mixed_batch(owners, tuple(texts), list(mix(drawn)))
                    training.proceed((number - 1 + (place - 1) / len(part)) / teaching.passes)
                    try:
                        update = training.update(batch)
                    except NotFinite as problem:
                        raise ValueError(f"step {step}: {problem}") from None
                    for owner, text, nats in zip(owners, texts, update.nats, strict=False):  # and what was mixed in
                        (learned.add if nats < training.learned_at else learned.discard)((owner, text))
                    if place == len(part):
                        following = next(passes, [])
                    seconds += time.perf_counter() - began
                    last = not following
                    probed = measured(step, last)
                taken = {"seconds": seconds, "last": last, "adapted": training.adapted}
                yield Step(step, number, batch.owner, update.loss, update.trainable, update.slots, probed, **taken)
            part = following
        batching.drop_others()


@contextmanager
def _gradients() -> Iterator[None]:
    """Gradients are taken in the block, also where the caller has switched them off. Not around a `yield` of steps:
    what it switches on would stay on for the caller."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _started(lab: Lab, method: Method, teaching: Teaching, recipe: Recipe | None) -> Iterator[Training]:
    """The method, ready for its first batch; at the end of the block the model is as before but for what it learned.

    A method that can't end, such as a LoRA that was interrupted while it merged, leaves the base.
    """
    ending = False
    try:
        with lab.in_training():
            lab.model.eval()
            leave_router_loss(lab.model)
            lab.model.zero_grad()  # what other training left would go into the first step
            training = method.start(lab, teaching.seed, recipe)
            try:
                training.begin(teaching)
                yield training
            finally:
                with lab.lock, _gradients():
                    ending = True
                    training.finish()
                    ending = False
    except BaseException as problem:
        if ending:
            lab.put_together()  # another interrupt may have stopped that
            lab.restore_weights()
            if (interrupt := _interrupt_before(problem)) is not None:
                raise interrupt from None  # it left a library in a state in which it can't end
        raise


def _interrupt_before(problem: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt in whose handling something was raised; None where it was raised without one."""
    while problem is not None and not isinstance(problem, KeyboardInterrupt):
        problem = problem.__context__
    return problem
