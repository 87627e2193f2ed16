"""A recipe: how a memory is given to a finished model, and how facts are then written into it.

Every field is a switch of its own; `smft-lab study` measures what each is worth on a real model. `PAPER` is
what Lin et al. 2025 (arXiv 2510.15103) describe, for a model that was pretrained with its memory, as the built-in one
was; `RETROFIT` is what makes a model learn that was finished without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar

from smft_lab.ranges import check_counts, check_not_negative, check_positive

KEYS = ("random", "kmeans", "pca")
CHOICES = ("group", "batch")
COUNTED = ("all", "shared", "answer")
FITTED = ("all", "answer")
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
SHAPE = (
    "slots",
    "heads",
    "k",
    "key_dim",
    "gate",
    "project",
    "whiten",
    "keys",
    "fitted",
    "threshold",
    "background_texts",
    "background_questions",
    "window",
)
"""Fields of a recipe that say how a memory is made; the others say how facts are taught."""


class Order(StrEnum):
    """In which order facts are taught (see `finetune`)."""

    stream = "stream"
    shuffled = "shuffled"
    mixed = "mixed"


class LossOn(StrEnum):
    """Which tokens of a text are learned."""

    statement = "statement"
    answer = "answer"


class Optimizer(StrEnum):
    """What moves the rows of a table (see `smft_lab.finetuning.rows`)."""

    sgd = "sgd"
    adam = "adam"


ORDERS, LOSSES = (tuple(option.value for option in options) for options in (Order, LossOn))


@dataclass(frozen=True)
class Recipe:
    """The switches of a retrofit.

    Attributes:
        slots, heads, k, key_dim: Shape of the memory (see `smft_lab.model.memory.ProductKeys`).
        gate, project: Whether what is read goes through Memory+'s gate and its output projection. Both are untrained
            in a finished model, and shrink what is written to a whisper.
        whiten: Whether queries are of hidden states less their mean, each dimension over its deviation.
        keys: `random`; `kmeans`, the codebooks are the centres of background queries; `pca`, the queries are the
            principal directions of background hidden states. None needs a backward pass.
        fitted: Of which hidden states of the background whitening and keys are: of `all`; or of those of its questions
            where an `answer` is predicted, which a deep block tells apart far better (with `counted="answer"`).
        threshold: How loud what a token reads must be, against the hidden state that it is added to, to be added at
            all (see `smft_lab.model.memory.Threshold`); at 0 all is.
        background_texts, background_questions: Windows of text, and questions with answers, in which reads are counted
            for the idf; each is a document.
        window: Tokens of a window.
        statements, questions, contexts: Of each fact, how many statements are taught, how many wordings of its
            question, and how many of these once more behind other questions with answers.
        keywords: How many questions of keywords are taught besides: some words of the wordings, drawn by chance.
        own_keywords: At least so many of a person's own facts, which have few wordings.
        choice: `batch`, the slots that may change are chosen anew for each batch (paper); `group`, once per fact for
            all facts taught together, before any is taught.
        counted: With `group`, which reads count in a fact's TF-IDF: of `all` tokens; of those before the answer that
            the fact's texts share and those of other facts don't (`shared`: its subject, mostly); or where its `answer`
            is predicted. Reads in a context never count.
        protect: With `group`, how many background documents each other fact of the group counts for, in the idf.
        max_df: With `group`, slots that more than this share of the background documents read are never chosen, unless
            a fact reads no others.
        top_t: Slots per fact (`group`), or per batch.
        order: `stream`, one fact a step (paper); `shuffled`, the same in another order each pass; or `mixed`, batches
            of `batch_size` texts of many facts.
        batch_size: Texts in a mixed batch.
        loss_on: `statement`, every token (paper); or `answer`, only the answer's.
        kl_anchor: A KL penalty, which is no `anchor`: weight of the KL divergence from the model without its memory, in
            nats a token, at all positions that predict nothing taught; `sparse` then computes every batch whole, and
            without the memory besides.
        anchor: With `group`, how strongly the rows are held to what they add to background text: the weight of the
            mean square of its change (see `smft_lab.slots.anchor`). No model is run for it.
        full_lr, lora_lr: Rates of the baselines, where a lab has no tuned ones.
        optimizer: `sgd` (paper), or row-wise `adam`.
        momentum: Of `adam`, its beta1.
        floor: Of `adam`, how much less it moves rows that matter little (see `smft_lab.finetuning.rows.RowAdam`).
        lr: The rate.
        decay: Whether the rate falls to zero in a straight line over a run of `sparse`.
        learned_at: Of `sparse`, in nats: a text is learned when each token to be learned had a loss below it when the
            text came last. It is then left out, since more of it would only write louder; the run ends when all are.
            A lower one teaches longer.
        passes, least_steps: Passes over the facts, and more of them where few facts would have fewer steps than that.

        RETROFIT: The usual one of a model that was finished without a memory.

    Examples:
        >>> smft.Recipe(top_t=80).to_dict()["top_t"]
        80
    """

    RETROFIT: ClassVar[Recipe]

    name: str = "custom"
    slots: int = 1_048_576
    heads: int = 4
    k: int = 8
    key_dim: int = 128
    gate: bool = False
    project: bool = False
    whiten: bool = True
    keys: str = "pca"
    fitted: str = "all"
    threshold: float = 0.0
    background_texts: int = 200
    background_questions: int = 400
    window: int = 64
    statements: int = 1
    questions: int = 4
    contexts: int = 3
    keywords: int = 0
    own_keywords: int = 3
    choice: str = "group"
    counted: str = "all"
    protect: float = 1.0
    max_df: float = 0.01
    top_t: int = 160
    order: str = "mixed"
    batch_size: int = 16
    loss_on: str = "answer"
    kl_anchor: float = 0.0
    anchor: float = 0.0
    optimizer: str = "adam"
    momentum: float = 0.9
    floor: float = 1.0
    lr: float = 0.3
    decay: bool = False
    learned_at: float = 0.7
    passes: int = 4
    least_steps: int = 96
    full_lr: float = 4e-5
    lora_lr: float = 5e-4

    def __post_init__(self) -> None:
        for name, known in (
            ("keys", KEYS),
            ("fitted", FITTED),
            ("choice", CHOICES),
            ("counted", COUNTED),
            ("order", ORDERS),
            ("loss_on", LOSSES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        counts = ("slots", "heads", "k", "key_dim", "window", "top_t", "batch_size", "passes", "least_steps")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_positive(**{name: getattr(self, name) for name in ("lr", "full_lr", "lora_lr")})
        or_none = ("background_texts", "background_questions", "statements", "questions", "contexts")
        or_none += ("keywords", "own_keywords")
        from_zero = ("threshold", "protect", "learned_at", "floor", "kl_anchor", "anchor", "max_df", "momentum")
        check_not_negative(**{name: getattr(self, name) for name in or_none + from_zero})
        check_counts(**{name: getattr(self, name) for name in or_none if getattr(self, name)})
        if not self.statements + self.questions:
            raise ValueError("a recipe must teach statements, questions, or both")
        if not self.background_texts + self.background_questions:
            raise ValueError("a recipe needs a background: texts, questions, or both")
        if self.fitted == "answer" and not self.background_questions:
            raise ValueError("what is fitted to answers needs questions in the background (background_questions)")
        if self.max_df > 1:
            raise ValueError(f"max_df must be at least 0 and at most 1, not {self.max_df}")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if self.anchor and self.choice != "group":
            raise ValueError("an anchor holds rows that were chosen for a group of facts (choice='group')")
        if self.choice == "group" and self.order != "mixed":
            raise ValueError("slots are chosen for a group of facts only where they are taught mixed (order='mixed')")

    @property
    def choosing(self) -> dict[str, Any]:
        """What `rank_slots` and `choose_slots` take of it."""
        return {"protect": self.protect, "max_df": self.max_df}

    def chooses_first(self, order: str) -> bool:
        """Whether the slots that may change are chosen before any fact is taught, for facts taught in that order."""
        return self.choice == "group" and order == "mixed"

    def to_dict(self) -> dict:
        """Its fields, as JSON values."""
        return asdict(self)

    def describe(self, usual: Recipe | None = None) -> str:
        """Its name, and the switches in which it teaches otherwise than the usual one, as `--recipe` takes them.

        Args:
            usual: The one of the lab; one of `RECIPES` by default, or where that has another name.
        """
        if usual is None or usual.name != self.name:
            usual = RECIPES.get(self.name, RETROFIT)
        own, others = self.to_dict(), usual.to_dict()
        changed = [f"{name}={_text_of(own[name])}" for name in own if own[name] != others[name]]
        return ", ".join([self.name, *(text for text in changed if text.partition("=")[0] not in ("name", *SHAPE))])

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """The recipe of such fields; those that are missing are as in `EARLIER`, or else as by default.

        Raises:
            ValueError: there is no such field, or a value is of another type or out of range.
        """
        _check_types(values)
        return cls(**{**EARLIER, **values})


EARLIER: dict[str, Any] = {
    "fitted": "all",
    "threshold": 0.0,
    "floor": 0.0,
    "anchor": 0.0,
    "keywords": 0,
    "own_keywords": 0,
}
"""What a recipe did where it lacks a field, since it was saved before there was one."""
RETROFIT = Recipe.RETROFIT = Recipe("retrofit")
GATED = Recipe("gated", gate=True, project=True)
PAPER = Recipe(
    "paper",
    gate=True,
    project=True,
    whiten=False,
    keys="random",
    key_dim=64,
    statements=64,
    questions=0,
    contexts=0,
    own_keywords=0,
    background_questions=0,
    choice="batch",
    protect=0.0,
    max_df=1.0,
    top_t=500,
    order="stream",
    loss_on="statement",
    optimizer="sgd",
    momentum=0.0,
    floor=0.0,
    lr=20.0,
    decay=False,
    learned_at=0.0,
    passes=12,
    least_steps=1,
    counted="all",
)
RECIPES = {recipe.name: recipe for recipe in (RETROFIT, GATED, PAPER)}


def read_switches(texts: Iterable[str]) -> tuple[Recipe | None, dict[str, Any]]:
    """What `--recipe` was given: a recipe by its name, if there is one, and values of fields, as `floor=0`.

    Raises:
        ValueError: there is no such recipe or field, two recipes, a field twice, or a value of another type.
    """
    named, switches = None, {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if name in switches:
            raise ValueError(f"{name} of the recipe is given twice")
        if sign:
            switches[name] = _value_of(name, value)
        elif name not in RECIPES:
            known = ", ".join(RECIPES)
            raise ValueError(f"no recipe {name!r}; there are {known}, and switches of one, such as floor=0")
        elif named is not None:
            raise ValueError(f"one recipe at a time, not {named.name} and {name}")
        else:
            named = RECIPES[name]
    return named, switches


def recipe_to_attach(texts: Iterable[str]) -> Recipe:
    """The recipe of a new lab from what `--recipe` was given: `RETROFIT` where it names none, with its switches.

    Raises:
        ValueError: see `read_switches`; or a value is out of range.
    """
    named, switches = read_switches(texts)
    return Recipe.from_dict({**(named or RETROFIT).to_dict(), **switches})


def recipe_to_teach(own: Recipe | None, texts: Iterable[str]) -> Recipe | None:
    """The recipe by which a lab is taught, from what `--recipe` was given; None where that is nothing.

    Args:
        own: The lab's, where it has one: switches start from it, and its memory stays as it was made.

    Raises:
        ValueError: see `read_switches`; the lab has no recipe and none is named; a switch is one of how a memory is
            made; or a value is out of range.
    """
    named, switches = read_switches(texts)
    if named is None and not switches:
        return None
    if made := [name for name in switches if name in SHAPE]:
        raise ValueError(f"{made[0]} says how a memory is made, and this lab has one; attach another: attach --recipe")
    base = named or own
    if base is None:
        raise ValueError(
            f"this lab has no recipe in which {next(iter(switches))} could be changed; labs that attach makes have "
            "one, or name one: --recipe retrofit"
        )
    shape = {} if own is None else {name: getattr(own, name) for name in SHAPE}
    return Recipe.from_dict({**base.to_dict(), **shape, **switches})


def _value_of(name: str, text: str) -> Any:
    """The value of a field, which is written as `_text_of` does.

    Raises:
        ValueError: there is no such field, or its values are of another type.
    """
    kind = {field.name: type(field.default) for field in fields(Recipe)}.get(name)
    value: Any = text
    if kind is bool:
        value = {"true": True, "false": False}.get(text.casefold(), text)
    elif kind in (int, float):
        with suppress(ValueError):
            value = kind(text)
    _check_types({name: value})
    return value


def _text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _check_types(values: dict) -> None:
    """Raise ValueError unless all are fields of a recipe, and of their types."""
    known = {field.name: type(field.default) for field in fields(Recipe)}
    if strangers := sorted(set(values) - set(known)):
        raise ValueError(f"a recipe has no {strangers[0]!r}; it has {', '.join(sorted(known))}")
    for name, value in values.items():
        kind = known[name]
        finite = kind is not float or (type(value) in (int, float) and math.isfinite(value))
        if not finite or type(value) not in ((int, float) if kind is float else (kind,)):
            raise ValueError(f"{name} of a recipe is {WORDS[kind]}, not {str(value)[:40]!r}")
