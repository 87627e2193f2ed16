"""The cache of generation holds what the library's own does, and copies less."""

import torch
from transformers import DynamicCache

from smft_lab.model.growing_cache import ROOM, GrowingLayer, let_grow


def states(rows, tokens):
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)


def test_a_growing_cache_gives_what_the_librarys_own_gives():
    torch.manual_seed(0)
    plain, growing = DynamicCache(), DynamicCache()
    first = states(1, 3)
    for cache in (plain, growing):
        cache.update(*first, 0)
        cache.batch_repeat_interleave(5)
    let_grow(growing)
    for step in range(2 * ROOM):
        if step in (3, ROOM):
            kept = torch.tensor([0, 2, 3] if step == 3 else [1])
            plain.batch_select_indices(kept)
            growing.batch_select_indices(kept)
        new = states(len(plain.layers[0].keys), 1 if step else 7)
        for whole, grown in zip(plain.update(*new, 0), growing.update(*new, 0), strict=True):
            assert torch.equal(whole, grown)
        assert plain.get_seq_length() == growing.get_seq_length()


def test_a_growing_layer_copies_nothing_that_it_has_room_for():
    layer = GrowingLayer()
    begun, _ = layer.update(*states(2, 3))
    grown, _ = layer.update(*states(2, 1))
    assert grown.data_ptr() == begun.data_ptr()
