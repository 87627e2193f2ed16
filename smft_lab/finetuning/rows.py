"""Optimizers that touch chosen rows of a table, in place, and nothing else.

A masked dense optimizer would not do: the moments of AdamW go on moving rows that an earlier step selected. A table is
float32 whatever the model is in (see `smft_lab.model.memory.Wide`), and so is all that is kept of its rows here.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smft_lab.finetuning.method import NotFinite
from smft_lab.lab import Lab
from smft_lab.model.memory import value_tables
from smft_lab.ranges import check_positive
from smft_lab.recipe import Optimizer

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


class RowSGD:
    """V[i] -= lr * g[i]; no momentum, no weight decay (paper section 3.3)."""

    def __init__(self, table: Float[Tensor, "N Vd"], lr: float):
        self.table, self.lr = table, lr

    @torch.no_grad()
    def step(self, rows: Int64[Tensor, " t"], grads: Float[Tensor, "t Vd"]) -> None:
        """Update `rows` by their gradients."""
        self.table[rows] -= self.lr * grads

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: a step depends on its gradients alone."""
        return {}

    def check_state(self, state: dict[str, Tensor]) -> None:
        """Raise ValueError if a state can't be taken up."""
        if state:
            raise ValueError("the state is of another optimizer: of Adam, and this is SGD")

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` gave.

        Raises:
            ValueError: see `check_state`.
        """
        self.check_state(state)


class RowAdam:
    """Adam with a step count per row and state only for the rows ever touched.

    Args:
        momentum: beta1. By default 0: in a stream of single facts a row is touched again when another fact selects it,
            and a first moment left over from the fact before would then move it the wrong way. Where facts are taught
            together, in mixed batches, momentum helps.
        floor: What is added below the line besides `eps`, as a share of the root mean square of all the table's
            gradients so far. At 0, as in Adam, a row that matters little to a text moves as far as one that matters
            much, and other texts which read it notice; above, a row moves less, the less it matters.
    """

    def __init__(
        self,
        table: Float[Tensor, "N Vd"],
        lr: float,
        beta2: float = 0.999,
        eps: float = 1e-8,
        momentum: float = 0.0,
        floor: float = 0.0,
    ):
        self.table, self.lr, self.beta2, self.eps, self.momentum = table, lr, beta2, eps, momentum
        self.floor = floor
        self._overall = table.new_zeros(2)  # gradients squared, their mean over the table, and steps
        self._place = torch.full(
            (len(table),), -1, dtype=torch.int32, device=table.device
        )  # row -> position in the state
        self._used = 0
        self._steps = table.new_zeros(0)
        self._second = table.new_zeros(0, table.shape[1])
        self._first = table.new_zeros(0, table.shape[1]) if momentum else None

    @property
    def rows_with_state(self) -> int:
        return self._used

    def _places(self, rows: Int64[Tensor, " t"]) -> Int64[Tensor, " t"]:
        new = rows[self._place[rows] < 0]
        if len(new):
            end = self._used + len(new)
            self._place[new] = torch.arange(self._used, end, dtype=torch.int32, device=rows.device)
            self._used = end
            if self._used > len(self._steps):  # grow by doubling, so that the copies add up to O(rows touched)
                extra = max(self._used, 2 * len(self._steps)) - len(self._steps)
                self._steps = torch.cat([self._steps, self._steps.new_zeros(extra)])
                empty = self._second.new_zeros(extra, self.table.shape[1])
                self._second = torch.cat([self._second, empty])
                if self._first is not None:
                    self._first = torch.cat([self._first, empty])
        return self._place[rows].long()

    @torch.no_grad()
    def step(self, rows: Int64[Tensor, " t"], grads: Float[Tensor, "t Vd"]) -> None:
        """Update distinct `rows` by their gradients."""
        at = self._places(rows)
        steps = self._steps[at] + 1
        eps = self.eps
        if self.floor and grads.numel():
            mean, taken = self.beta2 * self._overall[0] + (1 - self.beta2) * grads.square().mean(), self._overall[1] + 1
            self._overall = torch.stack([mean, taken])
            eps = eps + self.floor * (mean / (1 - self.beta2**taken)).sqrt()
        second = self.beta2 * self._second[at] + (1 - self.beta2) * grads.square()
        self._steps[at], self._second[at] = steps, second
        second = second / (1 - self.beta2**steps).unsqueeze(1)
        if self._first is not None:
            first = self.momentum * self._first[at] + (1 - self.momentum) * grads
            self._first[at] = first
            grads = first / (1 - self.momentum**steps).unsqueeze(1)
        self.table[rows] -= self.lr * grads / (second.sqrt() + eps)

    def state_dict(self) -> dict[str, Tensor]:
        """`rows` (R,) int64 that were ever touched, and of each its `steps`, (R,), and moments, (R, Vd); `overall`,
        (2,): the mean over the table that `floor` needs, and how many steps it is of."""
        rows = (self._place >= 0).nonzero().squeeze(1)
        at = self._place[rows].long()
        state = {"rows": rows, "steps": self._steps[at], "second": self._second[at], "overall": self._overall.clone()}
        return state if self._first is None else {**state, "first": self._first[at]}

    def check_state(self, state: dict[str, Tensor]) -> None:
        """Raise ValueError if a state can't be taken up: it is of another table, or of another optimizer."""
        kinds = self.state_dict().keys()
        if state.keys() | {"overall"} != kinds:
            raise ValueError("the state is of another optimizer: of SGD, or of Adam with momentum and not without")
        rows, (slots, width) = state["rows"], self.table.shape
        shapes = {"steps": (len(rows),), "second": (len(rows), width), "first": (len(rows), width), "overall": (2,)}
        if (
            any(tuple(state[name].shape) != shape for name, shape in shapes.items() if name in state)
            or rows.is_floating_point()
            or not ((rows >= 0) & (rows < slots)).all()
            or len(rows.unique()) != len(rows)
        ):
            raise ValueError(f"the state is not of a table of {slots:,} x {width} values")

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` gave, in place of one's own.

        Raises:
            ValueError: see `check_state`.
        """
        self.check_state(state)
        rows = state["rows"]
        device = self.table.device
        self._used = len(rows)
        self._place.fill_(-1)
        self._place[rows.to(device)] = torch.arange(self._used, dtype=torch.int32, device=device)
        self._steps, self._second = state["steps"].to(device).clone(), state["second"].to(device).clone()
        self._overall = state.get("overall", self._overall).to(device).clone()
        if self._first is not None:
            self._first = state["first"].to(device).clone()


OPTIMIZERS = {Optimizer.sgd.value: RowSGD, Optimizer.adam.value: RowAdam}


_NEWEST: weakref.WeakKeyDictionary[Lab, weakref.ref[RowOptimizer]] = weakref.WeakKeyDictionary()


class RowOptimizer(torch.optim.Optimizer):
    """The row optimizers for a training loop that looks at all gradients itself, such as `transformers.Trainer`.

        with smft.sparse_mode(lab, top_t=100):
            Trainer(lab.model, arguments, optimizers=(smft.RowOptimizer(lab, lr=0.1), None), ...).train()

    Sparse gradients are taken away as soon as they are made, and kept here until the step: norms and clipping, which
    know only dense ones, then see none. Learning-rate schedulers and gradient accumulation work; a gradient scaler, for
    float16, finds nothing to scale. Of several for one lab the newest gets the gradients.

    Args:
        optimizer: `adam` (row-wise, no momentum) or `sgd`.

    Raises:
        ValueError: no such optimizer, or `lr` isn't positive.

    Examples:
        >>> with smft.sparse_mode(lab, top_t=100):
        ...     optimizer = smft.RowOptimizer(lab, lr=0.1)
        ...     lab.model(input_ids=ids, labels=ids).loss.backward()
        ...     optimizer.step()
        >>> lab.reset()
    """

    def __init__(self, lab: Lab, *, lr: float, optimizer: str = "adam"):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"no optimizer {optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        check_positive(lr=lr)
        weights = [table.weight for table in value_tables(lab.model)]
        super().__init__(weights, {"lr": lr})
        self._rows = [OPTIMIZERS[optimizer](weight, lr) for weight in weights]
        self._taken: list[Tensor | None] = [None] * len(weights)
        self._lab = the_lab = weakref.ref(lab)
        myself: weakref.ref[RowOptimizer] = weakref.ref(self)
        _NEWEST[lab] = myself  # gradients of later loops are none of its business
        for i, weight in enumerate(weights):

            def take(parameter: Tensor, i: int = i) -> None:
                optimizer, lab, grad = myself(), the_lab(), parameter.grad
                if optimizer is None or lab is None or _NEWEST.get(lab) is not myself or not lab.in_loop:
                    return
                if grad is not None and grad.is_sparse:
                    before = optimizer._taken[i]
                    optimizer._taken[i] = grad if before is None else before + grad
                    parameter.grad = None

            weakref.finalize(self, weight.register_post_accumulate_grad_hook(take).remove)

    @torch.no_grad()
    def step(self, closure=None):
        """Update the rows that the backward passes since the last step selected.

        Raises:
            NotFinite: a gradient isn't finite; nothing is changed.
            ValueError: another one was made for the lab since, which has the gradients.
        """
        lab = self._lab()
        newest = None if lab is None else _NEWEST.get(lab)
        if newest is not None and newest() not in (None, self):
            raise ValueError("another RowOptimizer was made for this lab since, and gets the gradients; step that one")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken = [None if grad is None else grad.coalesce() for grad in self._taken]
        self._taken = [None] * len(self._taken)
        if lab is not None and not all(bool(grad.values().isfinite().all()) for grad in taken if grad is not None):
            raise NotFinite(lab.model, "a gradient is not finite")
        for rows, grad in zip(self._rows, taken, strict=True):
            if grad is not None:
                rows.lr = self.param_groups[0]["lr"]
                rows.step(grad.indices()[0], grad.values())
        return loss

    def state_dict(self) -> dict:
        """As torch's, and `rows`, the state of each table's rows, so that a resumed run goes on as if never stopped."""
        return {**super().state_dict(), "rows": [rows.state_dict() for rows in self._rows]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take up a state that `state_dict` gave; all of it, or nothing.

        Raises:
            ValueError: it is of other tables or of another optimizer.
        """
        state = dict(state_dict)
        parts = state.pop("rows", [])
        if len(parts) != len(self._rows):
            raise ValueError(f"the state is of {len(parts)} value tables, and the model has {len(self._rows)}")
        for rows, part in zip(self._rows, parts, strict=True):  # all of them, before any is taken up
            rows.check_state(part)
        super().load_state_dict(state)
        for rows, part in zip(self._rows, parts, strict=True):
            rows.load_state_dict(part)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._taken = [None] * len(self._taken)
        super().zero_grad(set_to_none)
