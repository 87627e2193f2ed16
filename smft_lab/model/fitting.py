"""Fitting the addresses of an attached memory to the model it is in, by forward passes alone."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smft_lab.model.attach import check_readable
from smft_lab.model.hooks import HookScope
from smft_lab.model.locking import reading
from smft_lab.model.memory import ProductKeys, block_of, memory_layers, stopping_at
from smft_lab.recipe import KEYS

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from transformers import PreTrainedModel

SAMPLE = 20_000  # hidden states that key centres and directions are fitted to; more change them little
NOISE = 1e-4  # of the strongest direction's spread: what is weaker is rounding, as the sum behind a layer norm is


@reading
@torch.inference_mode()
def memory_inputs(
    model: PreTrainedModel, batches: Iterable[dict[str, Shaped[Tensor, "_B _T"]]]
) -> dict[int, Float[Tensor, "tokens D"]]:
    """The hidden states that each memory layer gets, padding left out.

    Args:
        batches: Encoded batches with `input_ids` and `attention_mask`.

    Returns:
        Per memory layer (0, 1, ...), on the CPU.
    """
    layers = memory_layers(model)
    *_, last = layers.values()
    inputs: dict[int, list[Tensor]] = {position: [] for position in layers}

    def keep(into: list[Tensor], module, args) -> None:
        into.append(args[0].cpu())

    with HookScope() as scope:
        for position, layer in layers.items():
            scope.pre_hook(layer, partial(keep, inputs[position]))
        for batch in batches:
            check_readable(model, batch["input_ids"])
            with stopping_at(last.keys):
                model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            mask = batch["attention_mask"].bool().cpu().flatten()
            for states in inputs.values():
                states[-1] = states[-1].flatten(0, -2)[mask]
    return {position: torch.cat(states) for position, states in inputs.items()}


@torch.no_grad()
def fit_keys(
    model: nn.Module, inputs: dict[int, Float[Tensor, "tokens D"]], keys: str = "random", seed: int = 0
) -> None:
    """Fit the addressing of every memory layer; see `fit_addressing`.

    Args:
        inputs: See `memory_inputs`.
    """
    for position, layer in memory_layers(model).items():
        fit_addressing(layer.keys, inputs[position], keys, seed)


@torch.no_grad()
def fit_addressing(
    addressing: ProductKeys, states: Float[Tensor, "tokens D"], keys: str = "random", seed: int = 0
) -> None:
    """Set the whitening, and the keys or queries, from hidden states of ordinary text.

    Args:
        keys: `random` leaves keys and queries as they are; `kmeans` puts each half-codebook on the centres of the
            queries' halves; `pca` queries by the principal directions of the hidden states, dealt to the heads in turn.
        seed: Of the sample, and of the centres' start.

    Raises:
        ValueError: no such `keys`, or too few hidden states for it.
    """
    if keys not in KEYS:
        raise ValueError(f"keys must be one of {', '.join(KEYS)}, not {keys!r}")
    if len(states) < 2:  # whose deviation would be no number
        raise ValueError(f"{len(states)} hidden states are too few to fit an addressing to; give more background")
    states = states.float()
    if addressing.mean is not None and addressing.deviation is not None:
        addressing.mean.copy_(states.mean(0))
        addressing.deviation.copy_(states.std(0).clamp(min=1e-6))
    if keys == "random":
        return
    generator = torch.Generator().manual_seed(int(seed))
    sample = states[torch.randperm(len(states), generator=generator)[:SAMPLE]].to(addressing.keys.device)
    if keys == "pca":
        _query_by_directions(addressing, sample)
    else:
        _centre_keys(addressing, sample, seed)


@reading
@torch.inference_mode()
def fit_threshold(model: PreTrainedModel, batches: Iterable[dict[str, Shaped[Tensor, "_B _T"]]], share: float) -> None:
    """Set the level of each memory layer's threshold to a share of the hidden states that the memory is added to.

    Args:
        batches: As of `memory_inputs`; the median of their tokens' norms is taken, padding left out.
        share: Of that median.

    Raises:
        ValueError: a memory layer has no threshold.
    """
    layers = list(memory_layers(model).values())
    thresholds = [layer.threshold for layer in layers if layer.threshold is not None]
    if len(thresholds) < len(layers):
        raise ValueError("a memory layer has no threshold to be fitted")
    blocks = [block_of(model, layer) for layer in layers]
    norms: list[list[Tensor]] = [[] for _ in layers]

    def keep(into: list[Tensor], module, args, output) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        into.append(torch.linalg.vector_norm(hidden.float(), dim=-1).cpu().flatten())

    with HookScope() as scope:
        for block, into in zip(blocks, norms, strict=True):
            scope.hook(block, partial(keep, into))
        for batch in batches:
            check_readable(model, batch["input_ids"])
            with stopping_at(blocks[-1]):
                model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            mask = batch["attention_mask"].bool().cpu().flatten()
            for parts in norms:
                parts[-1] = parts[-1][mask]
    for threshold, parts in zip(thresholds, norms, strict=True):
        threshold.level.fill_(share * torch.cat(parts).median())


def _query_by_directions(addressing: ProductKeys, states: Float[Tensor, "tokens D"]) -> None:
    states = addressing.whitened(states)
    wanted = addressing.heads * addressing.key_dim
    _, spread, directions = torch.linalg.svd(states - states.mean(0), full_matrices=False)
    some = spread > NOISE * spread[0]
    directions = directions[some] / (spread[some] / len(states) ** 0.5).unsqueeze(1)  # each as loud as the others
    directions = directions[torch.arange(wanted) % len(directions)]
    order = torch.arange(wanted).view(-1, addressing.heads).T.flatten()  # strong and weak ones in every head
    addressing.query.weight.copy_(directions[order])


def _centre_keys(addressing: ProductKeys, states: Float[Tensor, "tokens D"], seed: int) -> None:
    from scipy.cluster.vq import kmeans2

    if len(states) < addressing.root:
        raise ValueError(f"{len(states)} hidden states are too few for {addressing.root} keys; give more background")
    queries = addressing.queries(states).view(len(states), addressing.heads, 2, -1)
    if addressing.temperature is not None:
        queries = torch.nn.functional.normalize(queries, dim=-1)
    for head in range(addressing.heads):
        for half in range(2):
            centres, _ = kmeans2(
                queries[:, head, half].cpu().numpy(),
                addressing.root,
                iter=10,
                minit="++",
                seed=seed,  # pyright: ignore[reportCallIssue]
                missing="warn",
            )
            addressing.keys[half, head].copy_(torch.from_numpy(centres))
