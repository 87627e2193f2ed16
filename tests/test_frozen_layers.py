"""Invariant 3: computing the frozen part once gives the same loss and the same update as the plain forward pass."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from smft_lab.facts.fact import Fact
from smft_lab.facts.world.world import new_facts
from smft_lab.finetuning.engine import frozen_layers, likeness, products, proof
from smft_lab.finetuning.engine.frozen_layers import Batch, Engine
from smft_lab.finetuning.engine.live import PastKeys, before_last_label
from smft_lab.finetuning.engine.products import FastLinear, RoundedWeights
from smft_lab.finetuning.engine.proof import engine_of, form_of
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import Sparse
from smft_lab.model.memory import MemoryLayer, RowHits, observe_reads, value_tables
from smft_lab.model.tokenizer import encode, only_answers
from smft_lab.slots.selection import Selection
from smft_lab.slots.usage import Usage

FACTS = new_facts(3)


def batch_of(tokenizer, fact: Fact, loss_on: str = "statement", everywhere: bool = False) -> Batch:
    texts = sorted(fact.statements)[:8]  # neighbours begin alike
    inputs = encode(tokenizer, texts)
    if loss_on == "answer":
        predicting = only_answers(tokenizer, texts, [fact.answers] * len(texts), inputs)
        return Batch(inputs, before_last_label(inputs["labels"]).long() if everywhere else predicting)
    return Batch(inputs, inputs["attention_mask"])


def train(lab, fast: bool, loss_on: str = "statement", rule: str = "tfidf", optimizer: str = "sgd"):
    """Two passes over three facts; the losses, the slots, and the tables at the end. The base is back afterwards."""
    lr = {"sgd": 500.0, "adam": 0.5}[optimizer]
    method = Sparse(lr=lr, top_t=20, rule=rule, optimizer=optimizer, fast=fast).start(lab)
    method.begin()
    kept = [batch_of(lab.tokenizer, fact, loss_on) for fact in FACTS]
    updates = [method.update(batch) for batch in [*kept, *kept]]
    method.finish()
    tables = [table.weight.detach().clone() for table in value_tables(lab.model)]
    lab.reset()
    assert method.fast == fast  # it did not fall back
    return [update.loss for update in updates], [update.slots for update in updates], tables


MEMORIES = [
    {"memory_at": [0]},
    {"memory_at": [1]},
    {"memory_at": [2]},
    {"memory_at": [0, 2], "memory_shared": True},
    {"memory_at": [1, 2], "memory_shared": False},
]


def assert_same_training(lab, **options):
    plain, fast = train(lab, fast=False, **options), train(lab, fast=True, **options)
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)
    assert plain[0][3] < plain[0][0] - 1e-4  # it learns, or both would be the same for nothing
    for one, other in zip(plain[1], fast[1], strict=True):
        assert [slots.tolist() for slots in one] == [slots.tolist() for slots in other]
    atol = 1e-3 if options.get("optimizer") == "adam" else 1e-5  # Adam divides by the gradient, however small
    for one, other in zip(plain[2], fast[2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("memory", MEMORIES, ids=str)
def test_the_fast_way_gives_the_same_losses_slots_and_values(tiny_lab, memory):
    assert_same_training(tiny_lab(**memory))


@pytest.mark.parametrize("options", [{"loss_on": "answer"}, {"rule": "all"}, {"rule": "tf"}, {"optimizer": "adam"}])
def test_the_fast_way_is_the_same_whatever_the_options(lab, options):
    assert_same_training(lab, **options)


def test_a_random_selection_is_drawn_anew_every_time_the_batch_comes(lab):
    _, slots, _ = train(lab, fast=True, rule="random")
    assert slots[0][0].tolist() != slots[3][0].tolist()


def test_a_full_cache_changes_nothing_but_the_time(lab, monkeypatch):
    kept = train(lab, fast=True)
    monkeypatch.setattr(frozen_layers, "CACHE_BYTES", 0)
    anew = train(lab, fast=True)
    assert kept[0] == anew[0]
    assert all(torch.equal(one, other) for one, other in zip(kept[2], anew[2], strict=True))


def test_the_cache_stays_within_its_limit(lab, monkeypatch):
    size = 0
    batches = [batch_of(lab.tokenizer, fact) for fact in FACTS]
    engine = Engine(lab.model)
    size = engine._freeze(batches[0], form_of(lab.model, batches[0])).size()
    assert size > batches[0].inputs["input_ids"].numel() * 3 * 32 * 4  # block, attention and gate of every token
    monkeypatch.setattr(frozen_layers, "CACHE_BYTES", 2 * size + size // 2)
    engine = Engine(lab.model)
    for batch in batches:
        batch.frozen = None
        engine._freeze(batch, form_of(lab.model, batch))
    assert [batch.frozen is not None for batch in batches] == [True, True, False]


def test_the_second_time_a_batch_comes_nothing_below_the_memory_runs(lab):
    ran = []
    for name, module in lab.model.named_modules():
        if name in ("model.layers.0", "model.layers.1.self_attn", "model.layers.1.mlp.gate", "model.layers.2"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    method = Sparse(lr=1.0, top_t=5, rule="tfidf", optimizer="sgd").start(lab)
    method.begin()
    batch = batch_of(lab.tokenizer, FACTS[0])
    method.update(batch)
    assert "model.layers.0" in ran
    ran.clear()
    method.update(batch)
    method.finish()
    assert ran == ["model.layers.2"]


def test_a_run_takes_over_what_an_earlier_one_kept_and_is_the_same(lab):
    def run(cache):
        updates = [
            (step.loss, step.slots[0].tolist())
            for step in finetune(lab, FACTS, "sparse", lr=0.5, top_t=top_t, passes=2, probe_every=0, cache=cache)
            if step.step
        ]
        values = [table.weight.detach().clone() for table in value_tables(lab.model)]
        lab.reset()
        return updates, values

    cache, ran = {}, []
    top_t = 30
    run(cache)
    assert len(cache) == len(FACTS)
    assert all(batch.frozen is not None for batch in cache.values())
    lab.model.get_submodule("model.layers.0").register_forward_hook(lambda *_: ran.append("below"))
    top_t = 10  # another choice of slots than the run before
    updates, values = run(cache)
    assert len(ran) == 2  # the check of a few texts, which alone are run from the bottom: plainly, and by what is kept
    expected_updates, expected_values = run({})
    assert updates == expected_updates
    assert all(torch.equal(one, other) for one, other in zip(values, expected_values, strict=True))


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_the_model_is_whole_again_after_every_step_also_after_a_failed_one(lab):
    modules = dict(lab.model.named_modules())
    hooks = hooks_of(lab.model)
    engine = Engine(lab.model)
    batch = batch_of(lab.tokenizer, FACTS[0])
    engine.loss(batch, form_of(lab.model, batch))
    lab.model.model.layers[2].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.loss(batch, form_of(lab.model, batch))
    assert dict(lab.model.named_modules()) == modules
    assert hooks_of(lab.model) == hooks + 1  # the one that failed
    assert modules["model.layers.1.mlp"].keys._known is None


@pytest.mark.parametrize("what", ["loss", "gradient", "failure"])
def test_a_model_without_a_cache_of_frozen_layers_is_trained_the_plain_way_and_says_so(lab, monkeypatch, what):
    loss = Engine.loss

    def wrong(self, batch, form):
        if what == "failure":
            raise TypeError("a block that takes no KnownOutput")
        right = loss(self, batch, form)
        return right * 1.01 if what == "loss" else right + 0.01 * (right - right.detach())

    plain = train(lab, fast=False)
    monkeypatch.setattr(Engine, "loss", wrong)
    method = Sparse(lr=500.0, top_t=20, rule="tfidf", optimizer="sgd").start(lab)
    method.begin()
    kept = [batch_of(lab.tokenizer, fact) for fact in FACTS]
    with pytest.warns(UserWarning, match="trained without the cache"):
        losses = [method.update(batch).loss for batch in [*kept, *kept]]
    method.finish()
    assert losses == plain[0]
    assert torch.equal(value_tables(lab.model)[0].weight, plain[2][0])


SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "head_dim": 16,
    "pad_token_id": 0,
}
FAMILIES = {  # model type: where its blocks are, and what its feed-forward is called
    "llama": ("model.layers", "mlp"),
    "mistral": ("model.layers", "mlp"),
    "qwen2": ("model.layers", "mlp"),
    "qwen3": ("model.layers", "mlp"),
    "gemma2": ("model.layers", "mlp"),
    "gemma3_text": ("model.layers", "mlp"),
    "olmo2": ("model.layers", "mlp"),
    "phi3": ("model.layers", "mlp"),
    "gpt2": ("transformer.h", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "mlp"),
    "falcon": ("transformer.h", "mlp"),
}


def with_memory(family: str, slots: int = 64):
    """A small random model of a family, with a memory in its second block of which only the values are trained."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{k: v for k, v in SMALL.items() if (family, k) != ("falcon", "head_dim")})
    model = AutoModelForCausalLM.from_config(config).eval()
    blocks, name = FAMILIES[family]
    setattr(model.get_submodule(blocks)[1], name, MemoryLayer(32, slots=slots, heads=2, k=4, key_dim=8))
    model.requires_grad_(False)
    (table,) = value_tables(model)
    table.weight.requires_grad_(True)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_face_families_keep_their_frozen_layers_too(family, tokenizer):
    model, blocks = with_memory(family), FAMILIES[family][0]
    (table,) = value_tables(model)
    batch = batch_of(tokenizer, FACTS[0])
    rows = torch.arange(0, 64, 3)
    ran = []
    model.get_submodule(blocks)[0].register_forward_hook(lambda *_: ran.append("below"))
    with table.train_rows(lambda *read: RowHits.find(rows, *read)), observe_reads(model):
        form = form_of(model, batch)
        engine = engine_of(model, batch, form)  # compares loss and gradient with those of the whole model
        assert engine is not None
        assert engine.trees
        whole = engine.loss(batch, form)
        ran.clear()
        assert engine.loss(batch, form) == whole
    assert not ran


def read_late(model, batch: Batch) -> torch.Tensor:
    """The slots that tokens with a label read and no token at the beginning does."""
    with torch.no_grad(), observe_reads(model) as reads:
        model(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"])
    slots, labelled = reads[0].slots[0], batch.inputs["labels"] != -100
    early = slots[:, : int(labelled.int().argmax(1).min())]
    late = slots[labelled].unique()
    return late[~torch.isin(late, early)]


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_no_chosen_slot_reaches_are_run_once_in_hugging_face_families(family, tokenizer):
    model = with_memory(family, slots=1024)
    table = value_tables(model)[0]
    batch = batch_of(tokenizer, FACTS[0], "answer", everywhere=True)
    usage = Usage(1, *(torch.ones(1, 1024, dtype=torch.int32) for _ in range(2)))
    selection = Selection(model, usage, 8)
    selection.choose_from((read_late(model, batch),))
    selection.remember_in(batch.memo)
    lengths = []
    last = model.get_submodule(FAMILIES[family][0])[2]
    last.register_forward_hook(lambda module, args, output: lengths.append(args[0].shape[:2].numel()))
    with selection.active():
        form = form_of(model, batch)
        engine = engine_of(model, batch, form, selection)
        assert engine is not None
        assert engine.live
        for _ in range(2):  # the second time the batch comes, it is known what can change
            engine.loss(batch, form)
        losses = []
        for _ in range(3):  # with what it has learned: the kept keys must not depend on it
            plain = model(**batch.inputs).loss
            lengths.clear()
            loss = engine.loss(batch, form)
            loss.backward()
            losses.append((plain.item(), loss.item()))
            assert lengths == [batch.live.form.inputs["input_ids"].numel()]
            assert lengths[0] < form.inputs["input_ids"].numel()
            rows = table.weight.grad.coalesce()
            with torch.no_grad():
                table.weight[rows.indices()[0]] -= 9 * torch.nn.functional.normalize(rows.values())
            table.weight.grad = None
    assert [loss for _, loss in losses] == pytest.approx([plain for plain, _ in losses], rel=1e-4)
    assert abs(losses[2][0] - losses[0][0]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_come_back_in_other_company_are_not_run_below_the_memory(family, tokenizer):
    model = with_memory(family, slots=1024)
    table = value_tables(model)[0]
    whole = batch_of(tokenizer, FACTS[0], "answer", everywhere=True)
    usage = Usage(1, *(torch.ones(1, 1024, dtype=torch.int32) for _ in range(2)))
    selection = Selection(model, usage, 8)
    selection.choose_from((read_late(model, whole),))
    halves = [rows_of(whole, [0, 1, 4, 5]), rows_of(whole, [2, 3, 6, 7])]
    with selection.active():
        engine = engine_of(model, halves[0], form_of(model, halves[0], True), selection)
        for batch in halves:
            engine.loss(batch, form_of(model, batch, True))
        with torch.no_grad():
            table.weight[selection.chosen[0]] += torch.randn(len(selection.chosen[0]), table.weight.shape[1])
        mixed = rows_of(whole, [7, 0, 2])
        selection.expect(mixed.counted, mixed.memo)
        plain = loss_and_gradient(model, model(**mixed.inputs).loss, table)
        form, ran = form_of(model, mixed, True), []
        below = model.get_submodule(FAMILIES[family][0])[0]
        handle = below.register_forward_hook(lambda *args: ran.append(args))
        found = loss_and_gradient(model, engine.loss(mixed, form), table)
        handle.remove()
    assert not ran
    assert mixed.live.past or not (mixed.live.still >= 0).any()
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * one.abs().max().item())


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    return Batch({name: x[rows] for name, x in batch.inputs.items()}, batch.counted[rows])


def loss_and_gradient(model, loss, table) -> list[torch.Tensor]:
    loss.backward()
    grad = table.take_gradient()
    return [loss.detach(), grad.indices().float(), grad.values()]


def test_what_stands_behind_the_last_label_is_not_run(tokenizer):
    model = with_memory("llama", slots=1024)
    text = "Ada Lind lives in Rome, and nobody there knows why she came."
    batch = batch_of(tokenizer, Fact((text,), question="Where does Ada live?", answers=("Rome",)), "answer", True)
    usage = Usage(1, *(torch.ones(1, 1024, dtype=torch.int32) for _ in range(2)))
    selection = Selection(model, usage, 8)
    selection.choose_from((torch.arange(1024),))
    with selection.active():
        form = form_of(model, batch, True)
        engine = engine_of(model, batch, form, selection)
        engine.loss(batch, form)
    assert batch.live.form.inputs["input_ids"].numel() == int(batch.counted.sum()) < batch.inputs["input_ids"].numel()


def test_a_model_that_makes_no_use_of_known_keys_is_run_whole(tokenizer, monkeypatch):
    monkeypatch.setattr(PastKeys, "update", lambda self, keys, values, *args: (keys, values))
    model = with_memory("llama", slots=1024)
    batch = batch_of(tokenizer, FACTS[0], "answer", everywhere=True)
    usage = Usage(1, *(torch.ones(1, 1024, dtype=torch.int32) for _ in range(2)))
    selection = Selection(model, usage, 8)
    selection.choose_from((read_late(model, batch),))
    selection.remember_in(batch.memo)
    with selection.active():
        form = form_of(model, batch)
        engine = engine_of(model, batch, form, selection)
        assert engine.live is False
        assert batch.live is None
        assert engine.loss(batch, form).item() == pytest.approx(model(**batch.inputs).loss.item(), rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*computes all positions")
def test_how_a_model_takes_known_keys_is_tried_on_the_first_batch_that_has_some(tokenizer, monkeypatch):
    monkeypatch.setattr(PastKeys, "update", lambda self, keys, values, *args: (keys, values))
    of_form, asked = frozen_layers.live_positions, []

    def none_known_at_first(*given):
        live, still = of_form(*given)
        asked.append(still)
        return (live | still, still & False) if len(asked) == 1 else (live, still)

    monkeypatch.setattr(frozen_layers, "live_positions", none_known_at_first)
    model = with_memory("llama", slots=1024)
    batch = batch_of(tokenizer, FACTS[0], "answer", everywhere=True)
    usage = Usage(1, *(torch.ones(1, 1024, dtype=torch.int32) for _ in range(2)))
    selection = Selection(model, usage, 8)
    selection.choose_from((read_late(model, batch),))
    selection.remember_in(batch.memo)
    with selection.active():
        form = form_of(model, batch)
        engine = engine_of(model, batch, form, selection)
        assert engine.live
        for _ in range(2):
            assert engine.loss(batch, form).item() == pytest.approx(model(**batch.inputs).loss.item(), rel=1e-4)
        assert engine.live is False


@pytest.mark.parametrize("bias", [True, False])
def test_what_stands_in_for_a_linear_layer_gives_its_output_and_gradient(bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=bias).requires_grad_(False)
    one, other = (torch.randn(2, 33, 48, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    weight = torch.randn(2, 33, 80)
    fast = FastLinear(layer)
    torch.testing.assert_close(fast(one), layer(other))
    (fast(one) * weight).sum().backward()
    (layer(other) * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
    assert fast.out_features == 80  # it answers for the layer in all else


def always_round(monkeypatch):
    monkeypatch.setattr(products, "rounding_is_faster", lambda: True)
    monkeypatch.setattr(products, "ROUNDED_FROM", 1)


def test_rounded_weights_give_the_same_slots_and_almost_the_same_training(tiny_lab, monkeypatch):
    exact = train(tiny_lab(memory_at=[1]), fast=True)
    always_round(monkeypatch)
    made, of = [], products.RoundedWeights.of
    monkeypatch.setattr(products.RoundedWeights, "of", lambda self, layer: made.append(layer) or of(self, layer))
    rounded = train(tiny_lab(memory_at=[1]), fast=True)
    assert made
    assert rounded[0] != exact[0]
    assert rounded[0] == pytest.approx(exact[0], rel=0.01)
    for one, other in zip(exact[1], rounded[1], strict=True):
        assert [slots.tolist() for slots in one] == [slots.tolist() for slots in other]
    for one, other in zip(exact[2], rounded[2], strict=True):
        written = one[one.any(1)], other[one.any(1)]
        assert (written[0] - written[1]).norm() < 0.1 * written[0].norm()


def test_layers_that_share_their_input_round_it_once_and_again_when_it_has_changed():
    weights, x = RoundedWeights(), torch.randn(3, 5, 8)
    first = weights.factor(x)
    assert weights.factor(x) is first
    assert torch.equal(first[:15], x.flatten(0, 1).bfloat16())
    x.add_(1)
    assert torch.equal(weights.factor(x)[:15], x.flatten(0, 1).bfloat16())
    assert torch.equal(weights.factor(2 * x)[:15], (2 * x).flatten(0, 1).bfloat16())


def test_rounding_leaves_the_model_itself_as_it_was(lab, monkeypatch):
    always_round(monkeypatch)
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    train(lab, fast=True)
    after = lab.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_small_models_and_other_processors_are_computed_as_they_are(lab, monkeypatch):
    lab.model.requires_grad_(False)
    always_round(monkeypatch)
    assert products.RoundedWeights.suit(lab.model)
    monkeypatch.setattr(products, "ROUNDED_FROM", 2**25)
    assert not products.RoundedWeights.suit(lab.model)
    always_round(monkeypatch)
    monkeypatch.setattr(products, "rounding_is_faster", lambda: False)
    assert not products.RoundedWeights.suit(lab.model)


def test_a_gradient_of_another_direction_or_length_is_not_taken_for_rounding():
    exact = [torch.tensor(2.0), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))]
    likeness.check_alike_if_rounded(exact, [exact[0] * 1.01, exact[1].bfloat16().float()])
    turned = exact[1].clone()
    turned[0] *= -1
    for other in (
        [exact[0] * 1.05, exact[1]],
        [exact[0], turned],
        [exact[0], exact[1] * 1.1],
        [exact[0], exact[1][:4]],
    ):
        with pytest.raises(ValueError, match="rounded"):
            likeness.check_alike_if_rounded(exact, other)


def test_a_few_rows_that_rounding_lets_another_slot_take_are_no_other_gradient():
    def gradient(rows, values):
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, (999, 4)).coalesce()

    rows, values = torch.arange(200), torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    whole = [torch.tensor(2.0), gradient(rows, values)]
    moved = rows.clone()
    moved[7] = 900
    likeness.check_alike(whole, [whole[0], gradient(moved, values)])
    likeness.check_alike_if_rounded(whole, [whole[0], gradient(moved, values)])
    wrong = values.clone()
    wrong[9] += 1
    for other in (gradient(rows[:190], values[:190]), gradient(moved, wrong)):
        with pytest.raises(ValueError, match="gradient"):
            likeness.check_alike(whole, [whole[0], other])


def test_a_model_that_rounding_would_change_is_computed_exactly(tiny_lab, monkeypatch):
    lab = tiny_lab(memory_at=[1])
    always_round(monkeypatch)
    of = products.RoundedWeights.of
    monkeypatch.setattr(products.RoundedWeights, "of", lambda self, layer: of(self, layer).roll(1, 0))
    exact = train(lab, fast=False)
    assert train(lab, fast=True)[0] == pytest.approx(exact[0], rel=1e-5)


def test_a_model_found_to_agree_is_compared_again_only_once_it_is_made_in_another_way(tiny_lab, monkeypatch):
    lab = tiny_lab()
    compared = []
    plain = proof.loss_and_gradients
    monkeypatch.setattr(proof, "loss_and_gradients", lambda *args: compared.append(1) or plain(*args))

    def run():
        compared.clear()
        method = Sparse(lr=1.0, top_t=5, rule="tfidf", optimizer="sgd").start(lab)
        method.begin()
        method.update(batch_of(lab.tokenizer, FACTS[0]))
        method.finish()
        return len(compared)

    assert (run(), run()) == (3, 0)
    hook = lab.model.model.layers[2].register_forward_hook(lambda *_: None)
    assert run() == 3
    hook.remove()
    assert run() == 0


def test_a_model_is_checked_anew_when_batches_first_share_a_beginning(lab, monkeypatch):
    """A file whose first fact has one statement must not let trees through that nobody compared."""
    from smft_lab.finetuning.methods import sparse

    checked = []
    monkeypatch.setattr(sparse, "engine_of", lambda *args: checked.append(args[2].packed) or engine_of(*args))
    method = Sparse(lr=1.0, top_t=5, rule="tfidf", optimizer="sgd").start(lab)
    method.begin()
    alone = batch_of(lab.tokenizer, Fact(("Mira keeps a cat.",), "Which animal does Mira keep?", ("cat",)))
    for batch in (alone, batch_of(lab.tokenizer, FACTS[0]), alone, batch_of(lab.tokenizer, FACTS[1])):
        method.update(batch)
    method.finish()
    assert checked == [False, True]
