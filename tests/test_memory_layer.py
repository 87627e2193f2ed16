"""The memory layer against references written out in full: no product-key trick, no fused lookups."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from smft_lab.model.memory import (
    MemoryLayer,
    ProductKeys,
    RowHits,
    ValueTable,
    memory_layers,
    observe_reads,
    value_tables,
)

D = 12  # hidden size
LAYER = {"slots": 64, "heads": 2, "k": 3, "key_dim": 8}


def make_layer(seed=0, hidden_size=D, **options) -> MemoryLayer:
    torch.manual_seed(seed)
    layer = MemoryLayer(hidden_size, **{**LAYER, **options})
    if layer.keys.temperature is not None:  # so that heads can't be confused
        torch.nn.init.uniform_(layer.keys.temperature, 4.0, 12.0)
    return layer


def hidden(batch=2, tokens=5, seed=1, width=D):
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(seed))


def every_score(keys: ProductKeys, x, head: int):
    """Scores of all N slots for one token x (D,) and one head, each whole key written out."""
    half = keys.key_dim // 2
    q = keys.query.weight[head * keys.key_dim : (head + 1) * keys.key_dim] @ x
    q1, q2 = q[:half], q[half:]
    K1, K2 = keys.keys[0, head], keys.keys[1, head]
    if keys.temperature is not None:
        q1, q2 = q1 / q1.norm() * keys.temperature[head], q2 / q2.norm() * keys.temperature[head]
        K1, K2 = K1 / K1.norm(dim=1, keepdim=True), K2 / K2.norm(dim=1, keepdim=True)
    return torch.stack([q1 @ K1[i] + q2 @ K2[j] for i in range(len(K1)) for j in range(len(K2))])


# product keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize(("slots", "k"), [(64, 3), (25, 5), (49, 1), (1, 1)])
def test_product_key_search_finds_what_a_search_of_all_slots_finds(slots, k, qk_norm):
    keys = make_layer(slots=slots, k=k, qk_norm=qk_norm).keys
    x = hidden()
    with torch.no_grad():
        found, weights = keys(x)
        for b, t, h in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(2)).tolist():
            scores = every_score(keys, x[b, t], h)
            best = scores.topk(k)
            assert set(found[b, t, h].tolist()) == set(best.indices.tolist())
            expected = (scores[found[b, t, h]] - best.values.logsumexp(0)).exp()
            torch.testing.assert_close(weights[b, t, h], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_each_head_reads_k_distinct_slots_with_weights_that_sum_to_one(qk_norm):
    slots, weights = make_layer(heads=3, k=4, qk_norm=qk_norm).keys(hidden(2, 7))
    assert slots.shape == weights.shape == (2, 7, 3, 4)
    assert slots.dtype == torch.int64
    assert int(slots.min()) >= 0
    assert int(slots.max()) < 64
    assert all(len(set(reads)) == 4 for reads in slots.flatten(0, 2).tolist())
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7, 3))


def test_qk_norm_makes_reads_independent_of_the_length_of_the_hidden_state():
    x = hidden()
    normed, plain = make_layer(qk_norm=True).keys, make_layer(qk_norm=False).keys
    torch.testing.assert_close(normed(x)[1], normed(50 * x)[1], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(plain(x)[1], plain(50 * x)[1], atol=1e-2)
    assert plain.temperature is None
    assert normed.temperature.shape == (2,)


# the layer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_dim", [None, 20])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_output_is_the_gated_sum_over_heads_written_out(qk_norm, value_dim):
    layer = make_layer(qk_norm=qk_norm, value_dim=value_dim)
    x = hidden()
    with torch.no_grad():
        out = layer(x)
        assert out.shape == x.shape
        V, W1, W2 = layer.values.weight, layer.gate.weight, layer.out.weight
        assert V.shape == (64, value_dim or D)
        for b in range(2):
            for t in range(5):
                y = torch.zeros(value_dim or D)
                for head in range(2):
                    best = every_score(layer.keys, x[b, t], head).topk(3)
                    for slot, s in zip(best.indices, best.values.softmax(0), strict=True):
                        y = y + s * V[slot]
                a = W1 @ x[b, t]
                reference = W2 @ (y * (a * torch.sigmoid(a)))
                torch.testing.assert_close(out[b, t], reference, atol=1e-5, rtol=1e-4)


def test_a_token_is_computed_alone_whatever_stands_beside_it():
    layer, x = make_layer(), hidden(3, 4)
    torch.testing.assert_close(layer(x)[1:2, 2:3], layer(x[1:2, 2:3]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("slots", "nearest"), [(10, 9), (60, 64), (1000, 1024), (2, 1), (0, 1), (-4, 1)])
def test_slots_that_are_no_perfect_square_are_refused_naming_the_nearest(slots, nearest):
    with pytest.raises(ValueError, match=rf"perfect square.* not {slots}; the nearest is {nearest}$"):
        make_layer(slots=slots, k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 9}, r"k must be between 1 and sqrt\(slots\) = 8, not 9"),
        ({"k": 0}, "k must be between 1"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"key_dim": 7}, "key_dim must be even .* not 7"),
        ({"key_dim": 0}, "key_dim must be even .* at least 2, not 0"),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(options, message):
    with pytest.raises(ValueError, match=message):
        make_layer(**options)


@pytest.mark.parametrize("shape", [(36, D), (64, D + 1)])
def test_a_shared_table_of_another_shape_is_refused_naming_both_shapes(shape):
    with pytest.raises(ValueError, match=rf"is \({shape[0]}, {shape[1]}\), but this layer needs \(64, {D}\)"):
        make_layer(values=ValueTable(*shape))


# reads ------------------------------------------------------------------------------------------------


def hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_observed_reads_are_those_of_every_layer_and_every_forward_pass(tiny_model):
    model = tiny_model(memory_at=[0, 2], memory_heads=3, memory_k=4)
    ids = torch.randint(3, 300, (2, 6), generator=torch.Generator().manual_seed(0))
    seen = {0: [], 1: []}
    handles = [
        layer.register_forward_pre_hook(lambda module, args, into=seen[i]: into.append(module.keys(args[0])))
        for i, layer in memory_layers(model).items()
    ]
    with torch.no_grad(), observe_reads(model) as reads:
        for batch in (ids, ids[:1]):
            for into in seen.values():
                into.clear()
            model(batch)
            for position in (0, 1):  # the pre-hook itself reads once more, so every other entry is the pass's own
                assert torch.equal(reads[position].slots[-1], seen[position][0][0])
                assert torch.equal(reads[position].weights[-1], seen[position][0][1])
                assert reads[position].slots[-1].shape == (*batch.shape, 3, 4)  # reads per token = heads x k
    for handle in handles:
        handle.remove()
    assert list(reads) == [0, 1]
    assert not torch.equal(reads[0].slots[-1], reads[1].slots[-1])


def test_observing_adds_one_entry_per_forward_pass_and_stops_with_the_block(tiny_model):
    model = tiny_model()
    ids = torch.tensor([[1, 5, 6]])
    with observe_reads(model) as reads:
        model(ids)
        model(ids)
    model(ids)
    assert len(reads[0].slots) == len(reads[0].weights) == 2
    assert not reads[0].weights[0].requires_grad
    assert hooks(model) == 0


def test_observing_changes_no_output(tiny_model):
    model, ids = tiny_model(), torch.tensor([[1, 5, 6, 7]])
    plain = model(ids).logits
    with observe_reads(model):
        assert torch.equal(model(ids).logits, plain)


def test_no_hook_is_left_when_the_observed_block_fails(tiny_model):
    model = tiny_model(memory_at=[0, 1, 2])

    def fail():
        with observe_reads(model):
            assert hooks(model) == 3
            model(torch.tensor([[1, 5]]))
            raise KeyError("in the block")

    with pytest.raises(KeyError, match="in the block"):
        fail()
    assert hooks(model) == 0


def test_memory_layers_are_numbered_from_the_first_transformer_layer_up(tiny_model):
    model = tiny_model(memory_at=[2, 0], memory_shared=False)
    layers = memory_layers(model)
    assert list(layers) == [0, 1]
    assert layers[0] is model.model.layers[0].mlp
    assert layers[1] is model.model.layers[2].mlp
    assert not isinstance(model.model.layers[1].mlp, MemoryLayer)
    assert value_tables(model) == [layers[0].values, layers[1].values]


def test_a_shared_table_counts_once(tiny_model):
    model = tiny_model(memory_at=[0, 1, 2], memory_shared=True)
    layers = memory_layers(model)
    assert len(layers) == 3
    assert value_tables(model) == [layers[0].values]
    assert all(layer.values is layers[0].values for layer in layers.values())


# train_rows -------------------------------------------------------------------------------------------


def two_layers(shared: bool):
    first = make_layer(seed=0)
    second = make_layer(seed=1, values=first.values if shared else None)
    return first, second


def run_both(layers, x):
    first, second = layers
    return second(x + first(x)).square().sum()


def dense_gradients(layers, x):
    for layer in layers:
        layer.zero_grad(set_to_none=True)
    run_both(layers, x).backward()
    grads = {(i, name): p.grad.clone() for i, layer in enumerate(layers) for name, p in layer.named_parameters()}
    for layer in layers:
        layer.zero_grad(set_to_none=True)
    return grads


CHOSEN = torch.arange(0, 64, 2)  # some of them read, some not


def chosen_hits(slots, weights):
    return RowHits.find(CHOSEN, slots, weights)


def assert_only_chosen_rows_of(dense, sparse):
    """The sparse gradient holds the chosen rows of the dense one, and they were read, or it would show nothing."""
    assert sparse.is_sparse
    sparse = sparse.coalesce()
    assert sparse.indices()[0].tolist() == CHOSEN.tolist()
    torch.testing.assert_close(sparse.values(), dense[CHOSEN], atol=1e-6, rtol=1e-5)
    assert dense[CHOSEN].any(dim=1).sum() >= 2
    elsewhere = torch.ones(len(dense), dtype=torch.bool)
    elsewhere[CHOSEN] = False
    assert dense[elsewhere].any()


def test_training_rows_leaves_the_forward_pass_bitwise_the_same(tiny_model):
    layer, x = make_layer(), hidden()
    with layer.values.train_rows(chosen_hits):
        assert torch.equal(layer(x), make_layer()(x))
    model, ids = tiny_model(memory_at=[0, 2]), torch.tensor([[1, 5, 6, 7, 9, 5]])
    plain = model(ids).logits
    with value_tables(model)[0].train_rows(chosen_hits):
        assert torch.equal(model(ids).logits, plain)


def test_only_chosen_rows_have_a_gradient_and_it_is_the_dense_one():
    layer, x = make_layer(), hidden()
    layer(x).square().sum().backward()
    dense = layer.values.weight.grad.clone()
    layer.zero_grad(set_to_none=True)
    with layer.values.train_rows(chosen_hits):
        layer(x).square().sum().backward()
    assert_only_chosen_rows_of(dense, layer.values.weight.grad)


def test_row_gradients_of_a_shared_table_add_up_over_its_layers():
    layers, x = two_layers(shared=True), hidden(1, 3)
    dense = dense_gradients(layers, x)
    with layers[0].values.train_rows(chosen_hits):
        run_both(layers, x).backward()
    assert_only_chosen_rows_of(dense[0, "values.weight"], layers[0].values.weight.grad)


def test_tables_trained_side_by_side_keep_their_gradients_apart():
    layers, x = two_layers(shared=False), hidden(1, 3)
    dense = dense_gradients(layers, x)
    with layers[0].values.train_rows(chosen_hits), layers[1].values.train_rows(chosen_hits):
        run_both(layers, x).backward()
    for i, layer in enumerate(layers):
        assert_only_chosen_rows_of(dense[i, "values.weight"], layer.values.weight.grad)


def test_training_rows_leaves_all_other_gradients_as_they_are():
    """Also those that reach an earlier layer through the weights of a later one."""
    layers, x = two_layers(shared=True), hidden(1, 3)
    dense = dense_gradients(layers, x)
    with layers[0].values.train_rows(chosen_hits):
        run_both(layers, x).backward()
    for i, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            if name != "values.weight":
                torch.testing.assert_close(parameter.grad, dense[i, name], atol=1e-6, rtol=1e-5)


def test_a_plain_sgd_step_moves_exactly_the_chosen_rows_that_were_read():
    layer, x = make_layer(), hidden()
    before = layer.values.weight.detach().clone()
    read = set(layer.keys(x)[0].flatten().tolist()) & set(CHOSEN.tolist())
    optimizer = torch.optim.SGD([layer.values.weight], lr=1.0)
    with layer.values.train_rows(chosen_hits):
        layer(x).square().sum().backward()
    optimizer.step()
    moved = (layer.values.weight != before).any(dim=1).nonzero().squeeze(1).tolist()
    assert set(moved) == read
    assert read


def test_hits_are_all_reads_of_the_rows_and_no_others():
    slots = torch.tensor([[3, 1], [1, 7], [3, 3]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    hits = RowHits.find(torch.tensor([1, 2, 3]), slots, weights)
    assert hits.tokens.tolist() == [0, 1, 0, 2, 2]
    assert hits.weights.tolist() == pytest.approx([0.2, 0.3, 0.1, 0.5, 0.6])
    assert hits.offsets.tolist() == [0, 2, 2]
    grad = torch.tensor([[1.0], [10.0], [100.0]])
    assert hits.gradients(grad).squeeze(1).tolist() == pytest.approx([3.2, 0.0, 110.1])


def test_training_rows_twice_at_once_is_refused_and_the_first_goes_on():
    table = ValueTable(64, 4)
    with table.train_rows(chosen_hits):
        with pytest.raises(RuntimeError, match="already active"), table.train_rows(chosen_hits):
            pass
        table(torch.tensor([[4]]), torch.ones(1, 1)).sum().backward()
    assert table.weight.grad.is_sparse


def test_the_plain_lookup_is_back_after_a_block_that_failed():
    table = ValueTable(64, 4)
    slots, weights = torch.tensor([[2, 5]]), torch.ones(1, 2)

    def fail():
        with table.train_rows(chosen_hits):
            table(slots, weights)
            raise KeyError("in the block")

    with pytest.raises(KeyError):
        fail()
    table(slots, weights).sum().backward()
    assert table.weight.grad.layout is torch.strided
    assert table.weight.grad[2].tolist() == [1.0] * 4


class Largest(TorchDispatchMode):
    """The most numbers in any tensor made while it is active, apart from views of one given tensor."""

    def __init__(self, of):
        super().__init__()
        self.of, self.numel = of.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                one = one._values() if one.is_sparse else one
                if one.untyped_storage().data_ptr() != self.of:
                    self.numel = max(self.numel, one.numel())
        return out


def test_training_rows_makes_nothing_of_the_size_of_the_table():
    layer, x = make_layer(slots=4096), hidden()
    table = layer.values.weight
    layer.requires_grad_(False)
    table.requires_grad_()
    with Largest(table) as rows, layer.values.train_rows(chosen_hits):
        F.mse_loss(layer(x), x).backward()
        torch.optim.SGD([table], lr=1.0).step()
    table.grad = None
    with Largest(table) as dense:
        F.mse_loss(layer(x), x).backward()
    assert dense.numel == table.numel()
    assert rows.numel < 4096
