"""What one gradient step changes, per method. A method owns its optimizer; all of them see the same batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from smft_lab.facts.fact import Fact
from smft_lab.finetuning.baselines import Anchor
from smft_lab.finetuning.packed_loss import PackedLoss
from smft_lab.finetuning.packing import as_rows
from smft_lab.finetuning.products import RoundedWeights
from smft_lab.finetuning.replay import Batch, Prefix, form_of, prefix_of
from smft_lab.finetuning.rows import OPTIMIZERS
from smft_lab.finetuning.teaching import TaughtText, counted_reads
from smft_lab.lab import Lab
from smft_lab.model.attach import AttachedMemory, without_memory
from smft_lab.model.memory import memory_layers, value_tables
from smft_lab.recipe import Recipe
from smft_lab.slots.group import choose_slots
from smft_lab.slots.scores import check_rule, check_top_t
from smft_lab.slots.selection import Selection, freeze_all_but_values

WEIGHT_DECAY = 0.1  # of AdamW, for full finetuning and LoRA, as in the paper (section 3.3)
LORA_RANK = 16


@dataclass(frozen=True)
class Update:
    """What one step did.

    Attributes:
        loss: Nats per token of the batch, before the step.
        trainable: How many numbers it could change.
        slots: Those it changed, per value table.
        nats: Of `sparse`, the loss of the least likely label of each text of the batch.
    """

    loss: float
    trainable: int
    slots: tuple[Tensor, ...] = ()
    nats: tuple[float, ...] = ()


class NotFinite(ValueError):
    """A step came to a loss or a gradient that isn't finite; it changed nothing."""

    def __init__(self, model, what: str):
        dtype = str(model.dtype).removeprefix("torch.")
        half = model.dtype.itemsize < 4 or torch.is_autocast_enabled(model.device.type)
        wider = " or without autocast" if half and model.dtype.itemsize >= 4 else ""
        advice = f"compute in float32 (the model is in {dtype}){wider}, or lower lr" if half else "lower lr"
        super().__init__(f"{what}, so nothing more is learned; {advice}, and start again from lab.reset()")


def check_finite(model, loss: Tensor, grads: Iterable[Tensor] = ()) -> None:
    """Raise NotFinite unless a loss is finite, and with it the gradients, if given."""
    if not loss.isfinite():
        raise NotFinite(model, f"the loss is {loss.item()}")
    if not all(bool(grad.isfinite().all()) for grad in grads):
        raise NotFinite(model, "a gradient is not finite")


class Sparse:
    """Sparse memory finetuning: only the value rows of the batch's top-t slots move (paper section 3).

    Args:
        top_t: t, rows per step and table; ignored under the rule `all`.
        rule: See `smft_lab.slots.scores.score`.
        optimizer: `sgd` (paper) or `adam` (row-wise).
        seed: Of the rule `random`.
        protect: See `Selection`.
        fast: Whether to compute what doesn't depend on the values once per batch (see `smft_lab.finetuning.replay`).
        momentum, floor: Of `adam`; see `RowAdam`.
        kl_anchor: See `smft_lab.recipe.Recipe`.
    """

    adapted: float | None = None

    def __init__(self, lab: Lab, lr: float, top_t: int, rule: str, optimizer: str, seed: int, fast: bool = True,
                 protect: float = 0.0, momentum: float = 0.0, floor: float = 0.0,
                 kl_anchor: float = 0.0):  # fmt: skip
        self.lab, self.fast, self.kl_anchor = lab, fast and not kl_anchor, kl_anchor
        self.top_t, self.rule, self.seed, self.lr = top_t, rule, seed, lr
        self.tables = value_tables(lab.model)
        options = {"momentum": momentum, "floor": floor} if optimizer == "adam" else {}
        self.optimizers = [OPTIMIZERS[optimizer](table.weight, lr, **options) for table in self.tables]
        self.selection = Selection(lab.model, lab.usage, top_t, rule, seed, protect)
        self.prefixes: dict[tuple[bool, bool], Prefix | None] = {}  # by what of a form has to be proven of its own
        freeze_all_but_values(lab.model)
        self.rounded = RoundedWeights() if self.fast and RoundedWeights.suit(lab.model) else None
        self._stack = ExitStack()
        self._stack.enter_context(self.selection.active())

    def choose(self, facts: Sequence[Fact], texts: Sequence[TaughtText], recipe: Recipe) -> None:
        """Choose the slots that may change for all the texts at once, before any of them is taught."""
        owners, reads = counted_reads(self.lab, facts, texts, recipe.counted)
        self.selection.chosen = choose_slots(
            self.lab.usage,
            owners,
            reads,
            self.top_t,
            rule=self.rule,
            seed=self.seed,
            **recipe.choosing,
        )

    def slow_down(self, rate: float) -> None:
        """Take steps of so much of the learning rate from now on."""
        for optimizer in self.optimizers:
            optimizer.lr = rate * self.lr

    def update(self, batch: Batch) -> Update:
        self.selection.counted, self.selection.memo, self.selection.owner = batch.counted, batch.memo, batch.owner
        loss, nats = self._replayed(batch) if self.fast else (None, None)
        drift = 0.0
        if loss is None or nats is None:
            before = self._before(batch) if self.kl_anchor else None  # first: the selection counts the last reads
            outputs = self.lab.model(**batch.inputs)
            loss = outputs.loss
            nats = _worst_of_text(batch, outputs.logits)
            if before is not None:
                after = outputs.logits[_unlabelled(batch)].float().log_softmax(-1)
                drift = functional.kl_div(after, before, log_target=True, reduction="batchmean")
        (loss + self.kl_anchor * drift).backward()
        slots = self.selection.slots
        grads = [table.take_gradient() for table in self.tables]
        check_finite(self.lab.model, loss.detach(), [grad.values() for grad in grads])
        for optimizer, grad in zip(self.optimizers, grads, strict=True):
            optimizer.step(grad.indices()[0], grad.values())
        self.selection.log_writes()
        width = self.tables[0].weight.shape[1]
        return Update(loss.item(), sum(map(len, slots)) * width, slots, tuple(nats.tolist()))

    @torch.no_grad()
    def _before(self, batch: Batch) -> Tensor:
        """Log-probabilities of the model without its memory where nothing taught is predicted, (positions, V)."""
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        with without_memory(self.lab.model):
            return self.lab.model(**inputs).logits[_unlabelled(batch)].float().log_softmax(-1)

    def _replayed(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """The loss, and each text's, without computing what is known; None for a model that can't be run so."""
        form = form_of(self.lab.model, batch, self.selection.chosen is not None, self.rounded)
        kind = form.packed, form.branches
        if kind not in self.prefixes:
            self.prefixes[kind] = prefix_of(self.lab.model, batch, form, self.selection, self.rounded)
        prefix = self.prefixes[kind]
        if prefix is None:
            self.fast = False
            return None, None
        return prefix.loss(batch, form), prefix.nats

    def finish(self) -> None:
        self._stack.close()


@torch.no_grad()
def _worst_of_text(batch: Batch, logits: Tensor) -> Tensor:
    """(B,) loss of the least likely label of each text, from the logits (B, T, V) of all."""
    targets = as_rows(batch.inputs, batch.counted).targets
    predicting = logits.flatten(0, 1)[targets.predicting]
    return targets.worst_of_text(targets.nats(predicting), len(logits))


def _unlabelled(batch: Batch) -> Tensor:
    """(B, T) bool: positions of texts that predict no label."""
    following = functional.pad(batch.inputs["labels"][:, 1:], (0, 1), value=-100)
    return (following == -100) & batch.inputs["attention_mask"].bool()


class _Dense:
    """A torch optimizer on every parameter of `model` that takes a gradient.

    Of half-precision parameters it moves float32 copies, which are then rounded: a step is often too small for them.

    Args:
        fast: Whether to compute what the texts of a batch have in common once (see `PackedLoss`).
    """

    adapted: float | None = None

    def __init__(self, model, lr: float, optimizer: str, fast: bool):
        self.model = model
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._copies = {one: one.detach().float() for one in parameters if one.dtype.itemsize < 4}
        moved = [self._copies.get(one, one) for one in parameters]
        if optimizer == "adamw":
            fused = parameters[0].device.type in ("cpu", "cuda")  # in one pass, without copies of the model
            self.optimizer = torch.optim.AdamW(moved, lr=lr, weight_decay=WEIGHT_DECAY, fused=fused)
        else:
            self.optimizer = torch.optim.SGD(moved, lr=lr)
        self.trainable = sum(parameter.numel() for parameter in parameters)
        self._packed = PackedLoss(model) if fast else None

    def update(self, batch: Batch) -> Update:
        loss = self.model(**batch.inputs).loss if self._packed is None else self._packed.loss(batch)
        loss.backward()
        self.pull()
        grads = [one.grad for one in self._copies if one.grad is not None]  # others overflow with the loss
        check_finite(self.model, loss.detach(), grads)
        for one, copy in self._copies.items():
            copy.grad = None if one.grad is None else one.grad.float()
        self.optimizer.step()
        with torch.no_grad():
            for one, copy in self._copies.items():
                one.copy_(copy)
                copy.grad = one.grad = None
        self.optimizer.zero_grad(set_to_none=False)
        return Update(loss.item(), self.trainable)

    def pull(self) -> None:
        """Change the gradients before the step."""


def _empty_memories(model) -> list[str]:
    """Names of all modules in added memories in which nothing has been written yet.

    Dense methods leave those out: they are no part of what the model was before, and would only make it slower.
    """
    return [
        f"{name}.memory.{inner}"
        for name, module in model.named_modules()
        if isinstance(module, AttachedMemory) and module.feed_forward is not None
        if not module.memory.values.weight.any()
        for inner, _ in module.memory.named_modules()
        if inner
    ]


def _linear_weights(model, without: Sequence[str]) -> dict[str, nn.Parameter]:
    """Weights that multiply what the model computes: of linear layers and of stacked experts, but for the output's.

    Args:
        without: Names of modules that don't count.
    """
    output, weights = model.get_output_embeddings(), {}
    memory = {part for layer in memory_layers(model).values() for part in layer.modules()}
    for name, module in model.named_modules():
        if module is output or name in without:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            weights[f"{name}.weight"] = module.weight
        elif module not in memory and not isinstance(module, _ConvNd):
            stacked = module.named_parameters(recurse=False)
            weights |= {f"{name}.{own}": parameter for own, parameter in stacked if parameter.ndim > 2}
    return weights


class Full(_Dense):
    """Full finetuning: every parameter, by AdamW (paper) or SGD (its Table 2).

    Args:
        anchor: Pulls the weights back to the base.
    """

    def __init__(self, lab: Lab, lr: float, optimizer: str = "adamw", anchor: Anchor | None = None, fast: bool = True):
        lab.model.requires_grad_(True)
        for name in _empty_memories(lab.model):
            lab.model.get_submodule(name).requires_grad_(False)
        super().__init__(lab.model, lr, optimizer, fast)
        self.lab, self.anchor = lab, anchor

    def pull(self) -> None:
        if self.anchor is not None:
            self.anchor.add_gradient(self.lab)

    def finish(self) -> None:
        self.optimizer.zero_grad()


class Lora(_Dense):
    """LoRA by `peft` on all linear layers that it finds, by AdamW or SGD; merged into the model when the run ends.

    Args:
        rank: r; alpha is twice that.

    Attributes:
        adapted: The share of the weights of linear layers and experts that it stands beside, in [0, 1].

    Warns:
        UserWarning: It isn't all of them, as in some mixtures of experts.
    """

    def __init__(self, lab: Lab, lr: float, seed: int, optimizer: str = "adamw", rank: int = LORA_RANK,
                 fast: bool = True):  # fmt: skip
        from peft import LoraConfig, get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        weights = _linear_weights(lab.model, _empty_memories(lab.model))
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            exclude_modules=_empty_memories(lab.model),
            task_type="CAUSAL_LM",
            bias="none",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers; nobody here can act on it
            torch.manual_seed(seed)
            wrapped = get_peft_model(lab.model, config)
        adapters = [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]
        adapted = {getattr(one.get_base_layer(), getattr(one, "parameter_name", None) or "weight") for one in adapters}
        others = {name: weight for name, weight in weights.items() if weight not in adapted}
        self.adapted = 1 - sum(map(torch.numel, others.values())) / sum(map(torch.numel, weights.values()))
        if others:
            kinds = sorted({".".join(part for part in name.split(".") if not part.isdigit()) for name in others})
            warnings.warn(
                f"LoRA adapts {self.adapted:.0%} of the weights of linear layers and experts; peft leaves out "
                f"{', '.join(kinds)}",
                stacklevel=2,
            )
        super().__init__(lab.model, lr, optimizer, fast)
        self.wrapped = wrapped

    def finish(self) -> None:
        self.wrapped.merge_and_unload()


METHODS = ("sparse", "full", "lora")
DENSE_OPTIMIZERS = ("adamw", "sgd")


def check_method(method: str) -> None:
    """Raise ValueError unless `method` is one there is."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")


def check_settings(method: str, slots: int, lr: float, top_t: int, rule: str, optimizer: str) -> None:
    """Raise ValueError unless `start` would take these; `top_t` and `rule` matter to `sparse` alone."""
    check_method(method)
    check_top_t(top_t, slots)
    if lr <= 0:
        raise ValueError(f"lr must be positive, not {lr}")
    check_rule(rule)
    known = tuple(OPTIMIZERS) if method == "sparse" else DENSE_OPTIMIZERS
    if optimizer not in known:
        raise ValueError(f"no optimizer {optimizer!r} for {method}; there are {', '.join(known)}")


def start(lab: Lab, method: str, lr: float, top_t: int, rule: str, optimizer: str, seed: int, fast: bool = True,
          protect: float = 0.0, anchor: Anchor | None = None, rank: int = LORA_RANK,
          momentum: float = 0.0, floor: float = 0.0, kl_anchor: float = 0.0):  # fmt: skip
    """The method of that name, ready for its first batch."""
    lab.model.zero_grad()  # what other training left would go into the first step
    if method == "sparse":
        return Sparse(lab, lr, top_t, rule, optimizer, seed, fast, protect, momentum, floor, kl_anchor)
    if method == "full":
        return Full(lab, lr, optimizer, anchor, fast)
    return Lora(lab, lr, seed, optimizer, rank, fast)
