"""Products with frozen weights, by whatever this processor does fastest, and the loss of a frozen output layer.

Weights that do not train can be kept in another shape than the model's. On a processor with bfloat16 products (AMX, or
AVX-512 with BF16) a large model's are rounded to bfloat16 while it is taught: steps are faster, and gradients differ by
rounding. What is measured, answered and saved is always the model itself, in its own precision.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smft_lab.finetuning.engine.packing import Targets
from smft_lab.model.precision import product_by_onednn

if TYPE_CHECKING:
    from jaxtyping import BFloat16, Float, Float32

CHUNK = 1024  # positions whose logits are in memory together
ROUND = 32  # rows that a product is filled up to: oneDNN compiles one for each new shape, and keeps 1 MB for it
ROUNDED_FROM = 2**25  # weights; a smaller model's are in the processor's caches, and rounding them would save little


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is AMD's with AVX-512, of which MKL makes half the use that oneDNN does.

    With AMX, oneDNN would round to bfloat16.
    """
    if not hasattr(torch.cpu, "get_capabilities") or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    has = torch.cpu.get_capabilities()
    return "AMD" in has.get("cpu_name", "") and has.get("avx512_f", False) and not has.get("amx_tile", False)


@cache
def rounding_is_faster() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own, in tiles (AMX) or in vectors."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return has.get("amx_bf16", False) or has.get("avx512_bf16", False)


class RoundedWeights:
    """The frozen weights of a model in bfloat16, each made when it is first asked for."""

    def __init__(self):
        self._weights: dict[nn.Module, Tensor] = {}
        self._factored: tuple[Callable[[], Tensor | None], int, Tensor] | None = None

    @staticmethod
    def suit(model: nn.Module) -> bool:
        """Whether a model's products would be faster with them: a large float32 model on such a processor."""
        weights = [weight for weight in model.parameters() if weight.ndim == 2 and not weight.requires_grad]
        exact = all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights)
        return rounding_is_faster() and exact and sum(map(torch.numel, weights)) >= ROUNDED_FROM

    def of(self, layer: nn.Linear) -> BFloat16[Tensor, "N D"]:
        """A layer's weight, rounded."""
        if layer not in self._weights:
            self._weights[layer] = layer.weight.detach().bfloat16()
        return self._weights[layer]

    def factor(self, x: Float[Tensor, "*batch D"]) -> BFloat16[Tensor, "M D"]:
        """x as a product's first factor, see `as_factor`; made once where the next layer has the same."""
        if self._factored is not None:
            known, version, factor = self._factored
            if known() is x and version == x._version:
                return factor
        factor = as_factor(x.detach(), torch.bfloat16)
        self._factored = weakref.ref(x), x._version, factor
        return factor


def fast_product(a: Float[Tensor, "M D"], b: Float[Tensor, "D N"]) -> Float[Tensor, "M N"]:
    """a @ b, in float32 by oneDNN where that is faster."""
    return product_by_onednn(a, b) if a.dtype == torch.float32 and onednn_is_faster() else a @ b


def as_factor(x: Float[Tensor, "*batch D"], dtype: torch.dtype) -> Float[Tensor, "M D"]:
    """x of that dtype, with rows of zeros at the end for M to be a multiple of ROUND."""
    x = x.flatten(0, -2)
    M = len(x)
    if x.dtype == dtype and not M % ROUND:
        return x
    filled = x.new_empty(M + -M % ROUND, x.shape[1], dtype=dtype)
    filled[:M] = x
    filled[M:] = 0
    return filled


def _product(
    x: Float[Tensor, "*batch D"], weight: Float[Tensor, "D N"], factor: Float[Tensor, "M D"] | None = None
) -> Float[Tensor, "*batch N"]:
    """x @ weight, in the precision of x.

    Args:
        factor: x as of `as_factor`, if it is known.
    """
    if factor is None:
        factor = as_factor(x, weight.dtype)
    y = fast_product(factor, weight)
    y = y[: x.shape[:-1].numel()].to(x.dtype).view(*x.shape[:-1], -1)
    # no view: some models go on to change what a layer gives in place
    return y.new_empty(0).set_(y)  # pyright: ignore[reportArgumentType]


class Product(torch.autograd.Function):
    """A frozen linear layer, forward and backward.

    Its weight may be rounded; what comes in and goes out is not.
    """

    @staticmethod
    def forward(
        ctx,
        x: Float[Tensor, "*batch D"],
        factor: Float[Tensor, "M D"],
        weight: Float[Tensor, "N D"],
        bias: Float[Tensor, " N"] | None,
    ) -> Float[Tensor, "*batch N"]:
        """x @ weight.T + bias; `factor` is that of x (see `as_factor`)."""
        ctx.weight = weight
        y = _product(x, weight.t(), factor)
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx, of_output: Float[Tensor, "*batch N"]):
        return _product(of_output, ctx.weight), None, None, None


class StandIn(nn.Module):
    """Takes a module's place for a while; answers for it in all but its calls."""

    def __init__(self, module: nn.Module, **known):
        super().__init__()
        self.__dict__.update(replaced=module, **known)  # none of it is a submodule

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["replaced"], name)


class FastLinear(StandIn):
    """Stands in for a frozen linear layer, and does the same by `Product`.

    Whole blocks cannot be run so: attention is slower by oneDNN.
    """

    def __init__(self, layer: nn.Linear, rounded: RoundedWeights | None = None):
        frozen = layer.weight.detach() if rounded is None else rounded.of(layer)
        super().__init__(layer, rounded=rounded, frozen=frozen)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch N"]:
        known = self.__dict__
        rounded, frozen = known["rounded"], known["frozen"]
        factor = as_factor(x.detach(), frozen.dtype) if rounded is None else rounded.factor(x)
        return Product.apply(x, factor, frozen, known["replaced"].bias)


def fast_linears(blocks: nn.Module, rounded: RoundedWeights | None) -> list[tuple[nn.Module, str, FastLinear]]:
    """Where the frozen float32 linear layers of some blocks are, and what stands in for them where that is faster."""
    if rounded is None and not onednn_is_faster():
        return []
    return [
        (parent, name, FastLinear(layer, rounded))
        for parent, name, layer in _plain_linears(blocks)
        if not any(parameter.requires_grad for parameter in layer.parameters())
    ]


def _plain_linears(blocks: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Linear layers of float32 weights that do nothing besides: what holds each, its name there, and itself."""
    for parent in blocks.modules():
        for name, layer in parent.named_children():
            if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
                continue
            if layer.weight.dtype == torch.float32:
                yield parent, name, layer


class TrainedProduct(torch.autograd.Function):
    """A linear layer of which the weight trains, too, forward and backward."""

    @staticmethod
    def forward(
        ctx, x: Float[Tensor, "*batch D"], weight: Float[Tensor, "N D"], bias: Float[Tensor, " N"] | None
    ) -> Float[Tensor, "*batch N"]:
        """x @ weight.T + bias."""
        factor = as_factor(x, weight.dtype)
        ctx.save_for_backward(factor, weight)
        ctx.biased = bias is not None
        y = _product(x, weight.t(), factor)
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx, of_output: Float[Tensor, "*batch N"]):
        factor, weight = ctx.saved_tensors
        above = as_factor(of_output, weight.dtype)
        of_x = _product(of_output, weight, above) if ctx.needs_input_grad[0] else None
        of_bias = above.sum(0) if ctx.biased else None
        return of_x, fast_product(above.t(), factor), of_bias


class TrainedLinear(StandIn):
    """Stands in for a linear layer that trains, and does the same by `TrainedProduct`."""

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch N"]:
        layer = self.__dict__["replaced"]
        return TrainedProduct.apply(x, layer.weight, layer.bias)


def trained_linears(model: nn.Module) -> list[tuple[nn.Module, str, TrainedLinear]]:
    """Where a model's float32 linear layers are that train, and what stands in for them where that is faster."""
    if not onednn_is_faster():
        return []
    return [
        (parent, name, TrainedLinear(layer))
        for parent, name, layer in _plain_linears(model)
        if all(parameter.requires_grad for parameter in layer.parameters())
    ]


class HeadLoss(torch.autograd.Function):
    """Cross-entropy of a frozen output layer, forward and backward at once: no logits are kept."""

    @staticmethod
    def forward(
        ctx, hidden: Float[Tensor, "M D"], head: nn.Linear, targets: Targets, frozen: Float[Tensor, "V D"]
    ) -> tuple[Float32[Tensor, ""], Float32[Tensor, " L"]]:
        """The mean over the labels, and each pair's own, in nats.

        Args:
            frozen: The head's weight, as its products are made.
        """
        every, hidden = hidden, hidden[targets.predicting]
        nats = torch.empty(len(targets.label), dtype=torch.float32, device=hidden.device)
        grads = hidden.new_empty(hidden.shape, dtype=torch.float32)
        for first in range(0, len(hidden), CHUNK):
            part = slice(first, first + CHUNK)
            logits = _product(hidden[part], frozen.t())
            if head.bias is not None:
                logits += head.bias
            logits = logits.float()
            p = logits.softmax(-1)
            sums = logits.amax(-1) - p.amax(-1).log()  # log of the sum of exp(logits)
            inside = ((targets.place >= first) & (targets.place < first + CHUNK)).nonzero().squeeze(1)
            place = targets.place[inside] - first
            nats[inside] = sums[place] - logits[place, targets.label[inside]]
            grads[part] = _product(p.to(hidden.dtype), frozen).float()
        rows = frozen[targets.label].float()
        grads.mul_(targets.total.unsqueeze(1)).index_add_(0, targets.place, rows * -targets.weight.unsqueeze(1))
        count = targets.weight.sum()
        grads = torch.zeros_like(every).index_copy_(0, targets.predicting, (grads / count).to(every.dtype))
        ctx.save_for_backward(grads)
        ctx.mark_non_differentiable(nats)
        return targets.mean(nats), nats

    @staticmethod
    def backward(ctx, of_loss: Float32[Tensor, ""], of_nats: Float32[Tensor, " L"]):
        return ctx.saved_tensors[0] * of_loss, None, None, None
