"""Keys and values that grow by a token at a time, without copying those that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from jaxtyping import Float

ROOM = 64  # tokens that a layer makes room for at once


class GrowingLayer(DynamicLayer):
    """A layer's keys and values with room for more: new ones are written behind them.

    The library's own layer copies all it has at each token. What this gives back is overwritten by nothing, but shares
    its memory with what comes later: for inference alone.
    """

    def __init__(self):
        super().__init__()
        self._shown: tuple[Tensor | None, ...] = (None, None)
        self._room: tuple[Tensor, ...] = ()

    def update(
        self,
        key_states: Float[Tensor, "B heads T _width"],
        value_states: Float[Tensor, "B heads T _width"],
        *args,
        **kwargs,
    ) -> tuple[Float[Tensor, "B heads all _width"], Float[Tensor, "B heads all _width"]]:
        """Add keys and values, and return all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, added = self.get_seq_length(), (key_states, value_states)
        after = before + key_states.shape[-2]
        if self.keys is not self._shown[0] or after > self._room[0].shape[-2]:  # other rows were chosen, or it is full
            room = []
            for known, new in zip((self.keys, self.values), added, strict=True):
                room.append(new.new_empty(*new.shape[:-2], after + ROOM, new.shape[-1]))
                if before:
                    room[-1][..., :before, :] = known
            self._room = tuple(room)
        for room, new in zip(self._room, added, strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = self._shown = tuple(room[..., :after, :] for room in self._room)
        return self.keys, self.values


def let_grow(cache: DynamicCache) -> None:
    """Let the plain layers of a cache grow in place; what they hold, they keep."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            growing = GrowingLayer()
            vars(growing).update(vars(layer))
            cache.layers[number] = growing
