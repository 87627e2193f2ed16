"""What a method of finetuning is: a frozen config that names, checks, defaults and starts itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.ranges import check_positive
from smft_lab.recipe import Recipe

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from transformers import PreTrainedModel

Mix = Callable[[Random], Sequence[str]]


@dataclass(frozen=True)
class Update:
    """What one step did.

    Attributes:
        loss: Nats per token of the batch, before the step.
        trainable: How many numbers it could change.
        slots: Per value table, the slots it changed, best first; of `sparse` alone.
        nats: Per text of the batch, the largest loss of any of its labels; of `sparse` alone.
    """

    loss: float
    trainable: int
    slots: tuple[Int64[Tensor, " _rows"], ...] = ()
    nats: tuple[float, ...] = ()


class NotFinite(ValueError):
    """A step came to a loss or a gradient that isn't finite; it changed nothing."""

    def __init__(self, model: PreTrainedModel, what: str):
        dtype = str(model.dtype).removeprefix("torch.")
        half = model.dtype.itemsize < 4 or torch.is_autocast_enabled(model.device.type)
        wider = " or without autocast" if half and model.dtype.itemsize >= 4 else ""
        advice = f"compute in float32 (the model is in {dtype}){wider}, or lower lr" if half else "lower lr"
        super().__init__(f"{what}, so nothing more is learned; {advice}, and start again from lab.reset()")


def check_finite(model: PreTrainedModel, loss: Float[Tensor, ""], grads: Iterable[Tensor] = ()) -> None:
    """Raise NotFinite unless a loss is finite, and with it the gradients, if given."""
    if not loss.isfinite():
        raise NotFinite(model, f"the loss is {loss.item()}")
    if not all(bool(grad.isfinite().all()) for grad in grads):
        raise NotFinite(model, "a gradient is not finite")


class Training:
    """A method at work on a lab's model, between `begin` and `finish`. It owns its optimizer.

    As a context manager it begins without a `Teaching`, and finishes. What `begin` sets up, `finish` takes down,
    wherever it was stopped.

    Attributes:
        adapted: The share of the weights of linear layers and experts that adapters stand beside; None without any.
        learned_at: A text of which every token to be learned had a loss below that many nats is left out of later
            passes; 0 leaves none out.
    """

    adapted: float | None = None
    learned_at: float = 0.0

    def begin(self, teaching: Teaching | None = None) -> None:
        """Get ready for the first batch.

        Args:
            teaching: What the run will teach.
        """

    def update(self, batch: Batch) -> Update:
        """Take one step.

        Raises:
            NotFinite: the loss or a gradient isn't finite.
        """
        raise NotImplementedError

    def proceed(self, done: float) -> None:
        """Be told, before each step, which share of the run's passes is done, in [0, 1)."""

    def finish(self) -> None:
        """Leave a plain model that keeps what was learned."""

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_) -> None:
        self.finish()


Setting = TypeVar("Setting")


def required(setting: Setting | None) -> Setting:
    """A setting that a resolved method has."""
    assert setting is not None
    return setting


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of finetuning and its settings; what is None is as the lab was tuned, or as the method usually has it.

    A method of one's own is a subclass with a `key`, registered, which then goes wherever a method is named:

        @register
        @dataclass(frozen=True, kw_only=True)
        class Mine(Method):
            key = "mine"
            usual = {"adamw": 1e-4}
            def start(self, lab, seed=0, recipe=None): return MyTraining(...)

    Attributes:
        lr: Learning rate.
        optimizer: One of `optimizers`.
        mix: Gives texts to train on beside each batch of statements, such as old ones. Their reads do not count in the
            choice of slots.
        fast: Whether what texts of a batch have in common is computed once, and by `sparse` what doesn't depend on the
            values only the first time a batch comes; the result is the same up to rounding.

    Raises:
        ValueError: a setting is out of range.
    """

    key: ClassVar[str]  # its name in commands and files
    title: ClassVar[str]  # what people read; the key by default
    short: ClassVar[str]
    about: ClassVar[str] = ""  # a sentence for a glossary
    optimizers: ClassVar[tuple[str, ...]] = ("adamw", "sgd")
    usual: ClassVar[Mapping[str, float]]  # by optimizer, the rate where none was tuned; the first is the usual one
    rates: ClassVar[Mapping[str, Sequence[float]]] = {}  # by optimizer, those that a sweep tries
    sparse: ClassVar[bool] = False  # whether it changes value rows alone, so that a patch holds all it learned

    lr: float | None = None
    optimizer: str | None = None
    mix: Mix | None = None
    fast: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "key" in vars(cls):
            for name in ("title", "short"):
                if name not in vars(cls):
                    setattr(cls, name, cls.key)

    def __post_init__(self) -> None:
        if self.lr is not None:
            check_positive(lr=self.lr)
        if self.optimizer is not None and self.optimizer not in self.optimizers:
            raise ValueError(f"no optimizer {self.optimizer!r} for {self.key}; there are {', '.join(self.optimizers)}")

    @classmethod
    def variant(cls, name: str, **settings) -> Self:
        """The method that `key:name` stands for.

        Raises:
            ValueError: it has no variants, or a setting is out of range.
        """
        raise ValueError(f"{f'{cls.key}:{name}'!r}: {cls.key} has no variants")

    @property
    def name(self) -> str:
        """What it is called among others, its settings left out."""
        return self.key

    @classmethod
    def title_in_sentence(cls) -> str:
        """The title within a sentence."""
        first = cls.title.partition(" ")[0]
        return cls.title if first != first.capitalize() else cls.title[:1].lower() + cls.title[1:]

    def settings(self) -> dict[str, Any]:
        """Its settings that are numbers or words, but for those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, str | int | float)}

    def of_recipe(self, recipe: Recipe) -> dict[str, Any]:
        """The settings that a recipe gives it."""
        return {}

    def tuned(self, lab: Lab) -> dict[str, Any]:
        """The settings that a sweep of the lab's gave it."""
        return lab.defaults.get(self.key, {})

    def resolved(self, lab: Lab, recipe: Recipe | None = None) -> Self:
        """It with every setting: those given, else the lab's tuned ones, else its recipe's, else the usual ones.

        Args:
            recipe: One for this run; where it says otherwise of the method than the lab's, it goes before all that the
                lab has.

        Raises:
            ValueError: no rate is given, and none is known for its optimizer.
        """
        of_lab = {} if lab.recipe is None else self.of_recipe(lab.recipe)
        of_run = of_lab if recipe is None else self.of_recipe(recipe)
        known = {"optimizer": next(iter(self.usual)), "lr_by_optimizer": self.usual, **of_lab}
        known |= self.tuned(lab)
        if of_run != of_lab:
            known |= of_run
        rates = known.pop("lr_by_optimizer")
        if self.optimizer in rates:
            known["lr"] = rates[self.optimizer]
        elif self.lr is None and self.optimizer not in (None, known["optimizer"]):
            raise ValueError(f"no learning rate is known for {self.key} by {self.optimizer}; give lr")
        known.setdefault("lr", next(iter(self.usual.values())))
        own = {field.name for field in fields(self) if getattr(self, field.name) is None}
        return replace(self, **{name: value for name, value in known.items() if name in own})

    def check(self, lab: Lab, recipe: Recipe | None = None) -> None:
        """Raise ValueError unless a resolved one can train the lab's model."""

    def candidates(self, lab: Lab) -> list[Self]:
        """What a sweep tries: it with every rate of `rates`, but for settings that are given."""
        return [
            replace(self, optimizer=optimizer, lr=lr)
            for optimizer, rates in self.rates.items()
            if self.optimizer in (None, optimizer)
            for lr in (rates if self.lr is None else [self.lr])
        ]

    def mixing(self, lab: Lab) -> Mix | None:
        """What is trained on beside each batch of statements in a run that begins now; None for nothing."""
        return self.mix

    def start(self, lab: Lab, seed: int = 0, recipe: Recipe | None = None) -> Training:
        """The method at work, of a resolved one, before it begins.

        Args:
            lab: What this changes of its model, but for the weights, `lab.in_training` puts back.
            seed: Of whatever is drawn.
            recipe: How slots are chosen and trained.
        """
        raise NotImplementedError


METHODS: dict[str, type[Method]] = {}
"""Every method by its key, in the order in which charts and tables have them."""


Kind = TypeVar("Kind", bound=type[Method])


def register(kind: Kind) -> Kind:
    """Make a method one that can be named, in Python, in commands and in panels."""
    METHODS[kind.key] = kind
    return kind


def method_of(method: str | Method, **settings) -> Method:
    """The method that a name stands for, with some of its settings; a `Method` is given back as it is.

    Args:
        method: A key; or `sparse:tf` and the like, `sparse` under another rule.
        settings: Fields of the method; those that are None count as not given.

    Raises:
        ValueError: no such method or setting, a setting is out of range, or a `Method` is given with other settings.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(method, Method):
        if given:
            kind = type(method).__name__
            raise ValueError(f"{next(iter(given))} belongs in the method: {kind}({next(iter(given))}=...)")
        return method
    key, _, variant = method.partition(":")
    if key not in METHODS:
        raise ValueError(f"no method {key!r}; there are {', '.join(METHODS)}")
    kind = METHODS[key]
    known = [field.name for field in fields(kind)]
    if strangers := [name for name in settings if name not in known]:
        raise ValueError(f"{key} has no {strangers[0]!r}; it has {', '.join(known)}")
    return kind.variant(variant, **given) if variant else kind(**given)
