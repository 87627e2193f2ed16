"""The methods: what a step may change, and that all of them are given the same."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import ClassVar

import pytest
import tiny_families
import torch
from test_attach import MEMORY, lab_of, small

import smft_lab as smft
from smft_lab.charts.style import looks
from smft_lab.cli import options
from smft_lab.experiments.compare import Comparison
from smft_lab.experiments.tune import Tuning, sweep
from smft_lab.facts.world.world import changed_facts, new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.method import Method, Training, Update
from smft_lab.finetuning.methods import METHODS, STANDARD, Full, Lora, Sparse, method_of, register
from smft_lab.finetuning.rows import RowAdam, RowSGD
from smft_lab.finetuning.teaching import batches
from smft_lab.model.attach import add_memory
from smft_lab.model.memory import value_tables
from smft_lab.model.tokenizer import encode, only_answers
from smft_lab.probes.probes import answer
from smft_lab.slots.scores import RULES, score, top_slots
from smft_lab.slots.usage import batch_counts

FACTS = new_facts(3)


def state(lab):
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def changed_rows(before, after):
    return set((before != after).any(dim=1).nonzero().flatten().tolist())


def steps(lab, method="sparse", **options):
    of_sparse = {"top_t": 5} if method == "sparse" else {}
    return finetune(lab, FACTS, method, **{"passes": 2, "probe_every": 0, "lr": 0.5, **of_sparse, **options})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("rule", RULES)
def test_a_sparse_step_changes_the_selected_rows_and_nothing_else(lab, optimizer, rule):
    before = state(lab)
    for step in steps(lab, optimizer=optimizer, rule=rule):
        after = state(lab)
        for name in before:
            if name.endswith("values.weight"):
                selected = set(torch.cat(step.slots).tolist()) if step.slots else set()
                assert changed_rows(before[name], after[name]) <= selected
                assert not step.slots or changed_rows(before[name], after[name])
            else:
                assert torch.equal(before[name], after[name]), name
        before = after


@pytest.mark.parametrize("shared", [True, False])
def test_several_memory_layers_keep_to_their_selected_rows(tiny_lab, shared):
    lab = tiny_lab(memory_at=[0, 2], memory_shared=shared)
    tables = value_tables(lab.model)
    before = [table.weight.detach().clone() for table in tables]
    run = steps(lab)
    next(run)
    selected = next(run).slots
    assert len(selected) == len(tables) == (1 if shared else 2)
    for table, old, slots in zip(tables, before, selected, strict=True):
        changed = changed_rows(old, table.weight)
        assert changed <= set(slots.tolist())
        assert len(changed) >= len(slots) - 1  # a slot that is only read where nothing is predicted has no gradient


def test_the_selected_rows_are_the_top_t_by_tfidf_of_this_batch(lab):
    run = steps(lab)
    next(run)
    (owners, texts), *_ = batches(FACTS, 2)
    (count,) = batch_counts(lab.model, encode(lab.tokenizer, texts))
    expected = top_slots(score("tfidf", count, lab.usage.df[0], lab.usage.batches), count, 5)
    step = next(run)
    assert step.facts == (owners[0],)
    assert step.slots[0].tolist() == expected.tolist()
    assert step.trainable == 5 * 32


def test_a_sparse_sgd_step_is_the_plain_gradient_step_on_those_rows(lab):
    (_, texts), *_ = batches(FACTS, 2)
    (table,) = value_tables(lab.model)
    lab.model(**encode(lab.tokenizer, texts)).loss.backward()
    dense, before = table.weight.grad.clone(), table.weight.detach().clone()
    lab.model.zero_grad()
    run = steps(lab, lr=2.0, optimizer="sgd")
    next(run)
    (slots,) = next(run).slots
    torch.testing.assert_close(table.weight[slots], before[slots] - 2.0 * dense[slots], rtol=1e-5, atol=1e-6)


def test_no_gradient_of_the_size_of_the_table_is_left_by_sparse_steps(lab):
    for _ in steps(lab):
        assert all(parameter.grad is None for parameter in lab.model.parameters())


def test_row_adam_equals_torch_adam_where_every_row_is_touched():
    torch.manual_seed(0)
    table, grads = torch.randn(6, 4), torch.randn(5, 6, 4)
    reference = torch.nn.Parameter(table.clone())
    adam = torch.optim.Adam([reference], lr=0.1, betas=(0.0, 0.9), eps=1e-8)
    mine = RowAdam(table, lr=0.1, beta2=0.9)
    for grad in grads:
        order = torch.randperm(6)
        mine.step(order, grad[order])
        reference.grad = grad
        adam.step()
    torch.testing.assert_close(table, reference.detach())


def test_row_adam_keeps_state_only_for_touched_rows_and_counts_their_steps_apart():
    table = torch.zeros(1000, 2)
    optimizer = RowAdam(table, lr=1.0)
    optimizer.step(torch.tensor([7, 3]), torch.ones(2, 2))
    optimizer.step(torch.tensor([3, 900]), torch.ones(2, 2))
    assert optimizer.rows_with_state == 3
    first_step = RowAdam(fresh := torch.zeros(1, 2), lr=1.0)
    first_step.step(torch.tensor([0]), torch.ones(1, 2))
    assert torch.equal(table[900], fresh[0])  # its first step, although the optimizer's second
    assert not table[[i for i in range(1000) if i not in (3, 7, 900)]].any()


def test_row_sgd_moves_rows_against_their_gradient():
    table = torch.ones(4, 2)
    RowSGD(table, lr=0.5).step(torch.tensor([2]), torch.tensor([[1.0, -2.0]]))
    assert table.tolist() == [[1, 1], [1, 1], [0.5, 2.0], [1, 1]]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_loss_of_what_it_is_taught(lab, method):
    fast = {"sparse": 1000.0, "full": 3e-3, "lora": 1e-2, "replay": 3e-3, "osf": 3e-3}.get(method, 3e-3)
    of_sparse = {"top_t": 200} if method == "sparse" else {}
    losses = [step.loss for step in steps(lab, method, passes=4, lr=fast, **of_sparse)][1:]
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.03


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_a_plain_model_that_keeps_what_it_learned(lab, method):
    names = set(lab.model.state_dict())
    run = steps(lab, method)
    batch = encode(lab.tokenizer, list(FACTS[0].statements[:4]))
    for step in run:
        if step.step == 5:
            with torch.inference_mode():
                during = lab.model(**batch).logits
            break
    run.close()
    assert set(lab.model.state_dict()) == names
    with torch.inference_mode():
        torch.testing.assert_close(lab.model(**batch).logits, during, rtol=1e-3, atol=3e-4)  # merging LoRA rounds
    assert all(parameter.requires_grad for parameter in lab.model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_bitwise_the_same_model(tiny_lab, method):
    first, second = tiny_lab(), tiny_lab()
    for lab in (first, second):
        for _ in steps(lab, method, seed=3):
            pass
    assert all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_left_by_other_training_do_not_enter_a_run(tiny_lab, method):
    clean, used = tiny_lab(), tiny_lab()
    used.model(**encode(used.tokenizer, ["Nobody asked."])).loss.backward()
    for one in (clean, used):
        for _ in finetune(one, new_facts(2), method, passes=1, probe_every=0):
            pass
    pairs = zip(clean.model.state_dict().values(), used.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_beginning_a_run_ends_the_one_under_way(lab):
    first = steps(lab, "lora")
    next(first), next(first)
    second = steps(lab, "sparse")
    assert next(first, None) is None
    assert next(second).step == 0


def test_a_stream_teaches_one_fact_a_step_in_the_same_order_each_pass():
    stream = [set(owners) for owners, _ in batches(FACTS, 3, seed=4)]
    assert all(one in stream[:3] for one in ({0}, {1}, {2}))
    assert stream[:3] == stream[3:6] == stream[6:]
    for owners, texts in batches(FACTS, 1):
        assert texts == list(FACTS[owners[0]].statements)
        assert len(set(texts)) == 64


def test_shuffled_order_mixes_the_same_statements_into_as_many_steps():
    mixed = list(batches(FACTS, 2, "shuffled"))
    assert len(mixed) == 6
    assert sorted(t for _, texts in mixed[:3] for t in texts) == sorted(t for fact in FACTS for t in fact.statements)
    assert all(len(set(owners)) > 1 for owners, _ in mixed)
    assert all(text in FACTS[i].statements for owners, texts in mixed for i, text in zip(owners, texts, strict=True))


def test_loss_on_the_answer_counts_only_the_tokens_of_the_answer_and_the_next(lab):
    tokenizer = lab.tokenizer
    texts = ["Mira works for Onyx Press, as all agree.", "Nothing of the kind.", "onyx press employs Mira; Onyx Press!"]
    batch = encode(tokenizer, texts)
    counted = only_answers(tokenizer, texts, [("Onyx Press",), ("Onyx Press",), ("Press", "Onyx Press")], batch)

    def labelled(row):
        return tokenizer.decode(batch["labels"][row][batch["labels"][row] != -100])

    assert labelled(0).strip() == "Onyx Press,"
    assert labelled(1) == tokenizer.decode(encode(tokenizer, texts)["input_ids"][1][batch["attention_mask"][1] == 1])
    assert labelled(2).strip() == "Onyx Press!"
    for row in range(3):  # a position counts when the label after it does
        wanted = (batch["labels"][row] != -100).nonzero().flatten() - 1
        assert counted[row].nonzero().flatten().tolist() == [i for i in wanted.tolist() if i >= 0]


def test_loss_on_the_answer_changes_only_slots_read_where_an_answer_is_predicted(lab):
    narrow = [step.slots[0] for step in steps(lab, passes=1, top_t=256, loss_on="answer") if step.slots]
    lab.reset()
    wide = [step.slots[0] for step in steps(lab, passes=1, top_t=256) if step.slots]
    assert all(set(a.tolist()) < set(b.tolist()) for a, b in zip(narrow[:1], wide[:1], strict=True))


def test_probes_are_measured_at_the_base_every_n_steps_and_at_the_end(lab):
    measured = [step.step for step in steps(lab, passes=3, probe_every=4) if step.probes]
    assert measured == [0, 4, 8, 9]
    assert [step.step for step in steps(lab, passes=7, probe_every=None) if step.probes] == [0, 20, 21]
    assert not any(step.probes for step in steps(lab, probe_every=0))


def test_old_facts_that_are_taught_anew_leave_the_old_facts_probe(lab):
    asked = lab.probes["old_facts"]
    known = dict(zip(asked.subjects, asked.questions, strict=True))
    fact = next(f for f in changed_facts(1900) if (f.subject, f.relation) in known)
    kept = lab.probes.without([fact])["old_facts"]
    assert set(asked.questions) - set(kept.questions) == {known[fact.subject, fact.relation]}


def test_tuned_defaults_apply_unless_an_option_is_given(lab):
    lab.defaults = {"sparse": {"optimizer": "adam", "lr": 0.1, "lr_by_optimizer": {"adam": 0.1, "sgd": 40.0}}}
    assert Sparse().resolved(lab) == Sparse(optimizer="adam", lr=0.1, top_t=100)
    assert Sparse(optimizer="sgd").resolved(lab).lr == 40.0
    assert Sparse(optimizer="sgd", lr=3.0).resolved(lab).lr == 3.0
    assert Full().resolved(lab) == Full(optimizer="adamw", lr=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_t": 0}, "top-t must be between 1 and the 256 slots"),
        ({"top_t": 257}, "top-t must be between 1 and the 256 slots"),
        ({"rule": "best"}, "no rule 'best'"),
        ({"optimizer": "adamw"}, "no optimizer 'adamw'"),
        ({"method": "dense"}, "no method 'dense'"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"order": "random"}, "no order 'random'"),
        ({"loss_on": "question"}, "no loss_on 'question'"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"probe_every": -1}, "probe_every"),
    ],
)
def test_a_bad_option_is_refused_before_anything_changes(lab, options, says):
    with pytest.raises(ValueError, match=says):
        steps(lab, **options)
    with pytest.raises(ValueError, match="no facts"):
        finetune(lab, [])


@pytest.mark.parametrize("field", ["question", "answers"])
def test_a_question_or_an_answer_longer_than_the_model_reads_is_refused_before_any_step(lab, field):
    long = "Where is it? " * 1200  # 15 kB
    (fact,) = new_facts(1)
    changed = replace(fact, **{field: (long,) if field == "answers" else long})
    with pytest.raises(ValueError, match=f"^fact 1, {field.rstrip('s')} 'Where .*the model reads at most .*; shorten"):
        next(finetune(lab, [changed], top_t=5))


def test_a_question_longer_than_the_model_reads_is_not_asked(lab):
    with pytest.raises(ValueError, match=r"^question 'Where is it.*it takes .* tokens.*the model reads at most"):
        answer(lab.model, lab.tokenizer, ["Where is it? " * 1200])


@pytest.mark.parametrize(
    ("family", "left_out"),
    [
        ("qwen2_moe", ["model.layers.mlp.experts.gate_up_proj", "model.layers.mlp.experts.down_proj"]),
        ("deepseek_v3", ["model.layers.mlp.gate_proj.weight", "model.layers.mlp.shared_experts.up_proj.weight"]),
        ("mixtral", []),
        ("llama", []),
    ],
)
def test_lora_says_which_share_of_a_mixture_of_experts_it_adapts(tokenizer, corpus, family, left_out):
    model = tiny_families.tiny_model(family)
    model.config.pad_token_id = tokenizer.pad_token_id
    weights = {n: p.numel() for n, p in model.named_parameters() if p.ndim > 1 and ("proj" in n or "gate.w" in n)}
    lab = lab_of(add_memory(model, 1, **MEMORY), tokenizer, corpus)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ran = smft.run(lab, new_facts(2), "lora", passes=1, probe_every=0)
        compared = Comparison(lab, new_facts(2), ("lora",), passes=1, evaluations=1, seeds=[0])
        for _ in compared.steps():
            pass
    told = [str(one.message) for one in said if "LoRA adapts" in str(one.message)]
    if not left_out:
        assert (told, ran.summary()["adapted"]) == ([], 1)
        assert "adapted" not in compared.summary()["methods"]["lora"]
        return
    missing = {name for name in weights if any(_without_numbers(name) in text for text in told)}
    share = 1 - sum(weights[name] for name in missing) / sum(weights.values())
    assert 0.1 < share < 0.9
    assert ran.summary()["adapted"] == pytest.approx(share, abs=0.02)
    assert all(name in told[0] for name in left_out)
    assert compared.summary()["methods"]["lora"]["adapted"].startswith(f"{ran.summary()['adapted']:.0%} of the weights")


def _without_numbers(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())


# A method is one thing ---------------------------------------------------------------------------------


@pytest.fixture
def bold(monkeypatch):
    """A method of one's own: it sets every row that a batch reads to one."""

    class Bold(Training):
        def __init__(self, lab, settings):
            self.model, self.settings = lab.model, settings

        @torch.no_grad()
        def update(self, batch):
            value_tables(self.model)[0].weight[: self.settings.rows] += 1.0
            return Update(1.0, self.settings.rows)

    @dataclass(frozen=True, kw_only=True)
    class BoldRows(Method):
        key = "bold"
        title = "Bold rows"
        about = "Adds one to the first rows."
        usual: ClassVar = {"adamw": 1.0}
        rates: ClassVar = {"adamw": (0.5, 1.0)}
        sparse = True
        rows: int = 3

        def start(self, lab, seed=0, recipe=None):
            return Bold(lab, self)

    monkeypatch.setitem(METHODS, "bold", BoldRows)
    return BoldRows


def test_a_method_of_ones_own_goes_wherever_a_method_is_named(lab, bold, tmp_path):
    assert method_of("bold", rows=2) == bold(rows=2)
    run = smft.run(lab, FACTS, bold(rows=2), passes=1, probe_every=0)
    assert (len(run.patch), run.summary()["method"], run.summary()["rows"]) == (2, "bold", 2)
    lab.reset()
    comparison = smft.compare(lab, FACTS, ["sparse", "bold"], seeds=1, passes=1, evaluations=1)
    page = comparison.save(tmp_path / "out").read_text(encoding="utf-8")
    assert page.count("Bold rows") > 3
    assert "Adds one to the first rows." in page
    look = looks(["sparse", "bold"])
    assert look["bold"].light != look["sparse"].light
    assert look["bold"].light in page
    tried = [
        method.lr
        for method, item in sweep(lab, FACTS, bold().candidates(lab), (0,), passes=1)
        if isinstance(item, dict)
    ]
    assert tried == [0.5, 1.0]


def test_a_registered_method_is_found_by_its_key(bold, monkeypatch):
    monkeypatch.delitem(METHODS, "bold")
    with pytest.raises(ValueError, match="no method 'bold'; there are sparse, full, lora"):
        method_of("bold")
    assert register(bold) is bold
    assert method_of("bold") == bold()


def test_a_key_with_settings_is_short_for_the_method_with_them(tiny_lab):
    first, second = tiny_lab(), tiny_lab()
    for _ in finetune(first, FACTS, top_t=7, rule="tf", lr=0.5, passes=1, probe_every=0):
        pass
    for _ in finetune(second, FACTS, Sparse(top_t=7, rule="tf", lr=0.5), passes=1, probe_every=0):
        pass
    assert all(
        torch.equal(one, other) for one, other in zip(state(first).values(), state(second).values(), strict=True)
    )
    assert method_of("sparse:kl", top_t=7) == Sparse(rule="kl", top_t=7)


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("sparse", {"rank": 4}, "sparse has no 'rank'; it has lr, optimizer, mix, fast, top_t, rule, protect"),
        ("full", {"top_t": 4}, "full has no 'top_t'"),
        (Lora(rank=4), {"lr": 0.1}, r"lr belongs in the method: Lora\(lr=...\)"),
        ("full:tf", {}, "full has no variants"),
    ],
)
def test_a_setting_where_it_does_not_belong_is_refused(lab, method, settings, says):
    with pytest.raises(ValueError, match=says):
        finetune(lab, FACTS, method, **settings)


def test_an_optimizer_without_a_known_rate_needs_one(lab):
    with pytest.raises(ValueError, match="no learning rate is known for full by sgd; give lr"):
        finetune(lab, FACTS, "full", optimizer="sgd")
    assert method_of("full", optimizer="sgd", lr=0.1).resolved(lab).lr == 0.1
    assert method_of("sparse", optimizer="sgd").resolved(lab).lr


def test_few_facts_are_not_measured_at_every_step_unless_asked_to(lab):
    measured = [step.step for step in finetune(lab, FACTS[:1], passes=30, top_t=5) if step.probes]
    assert measured == [0, 20, 30]
    lab.reset()


def test_a_sweep_of_a_method_without_rates_is_refused(lab):
    with pytest.raises(ValueError, match="no rates are known that could be tried for full by sgd"):
        Tuning(lab, FACTS, [method_of("full", optimizer="sgd")])


@pytest.mark.parametrize("method", ["lora", "osf"])
@pytest.mark.parametrize(("family", "left"), [("llama4_text", "router"), ("qwen2_moe", "shared_expert_gate")])
def test_adapters_leave_out_layers_that_they_do_not_fit_and_say_so(method, family, left, tokenizer, corpus):
    lab = lab_of(add_memory(tiny_families.tiny_model(family), 1, **MEMORY), tokenizer, corpus)
    fits = (method, family) == ("lora", "qwen2_moe")  # a low rank fits a matrix of one row
    with pytest.warns(UserWarning, match="peft leaves out") as notes:
        run = smft.run(lab, FACTS[:1], method, passes=1, lr=1e-2, probe_every=0)
    assert (left in str(notes[0].message)) is not fits
    assert run.losses[-1] > 0
    lab.reset()


def test_more_general_questions_than_there_are_to_replay_are_refused_before_any_step(lab, monkeypatch):
    monkeypatch.setattr(lab, "world_seed", None)
    with pytest.raises(ValueError, match=r"there are 140 general questions to replay, not 200; give texts"):
        finetune(lab, FACTS, "replay", count=200)


def test_the_methods_compared_by_default_are_those_of_the_command_line():
    assert tuple(options.STANDARD.split(",")) == STANDARD
    assert {*STANDARD, *options.OTHER_METHODS.split(", ")} == {*METHODS}


def test_no_setting_of_a_method_is_called_as_an_option_of_finetune():
    options = signature(finetune).parameters
    assert not [(key, field.name) for key, kind in METHODS.items() for field in fields(kind) if field.name in options]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_learns_the_same_where_its_caller_has_switched_gradients_off(method, tiny_lab):
    facts, weights = [replace(fact, statements=fact.statements[:4]) for fact in new_facts(2)], []
    for block in (nullcontext, torch.inference_mode):
        lab = tiny_lab()
        with block():
            smft.run(lab, facts, method, passes=1, probe_every=0)
            assert torch.is_grad_enabled() == (block is nullcontext)
        weights.append({name: tensor.clone() for name, tensor in lab.model.state_dict().items()})
        assert not any(tensor.is_inference() for tensor in lab.model.parameters())
        smft.run(lab, facts, method, passes=1, probe_every=0)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_lab_that_is_opened_where_gradients_are_off_is_taught_later(tiny_lab, tmp_path):
    tiny_lab().save(tmp_path / "lab")
    with torch.inference_mode():
        lab = smft.load(tmp_path / "lab")
    assert not any(tensor.is_inference() for tensor in lab.model.parameters())
    assert smft.run(lab, new_facts(2), passes=1, probe_every=0).patch


def test_a_model_made_where_nothing_can_be_trained_is_refused_in_those_words(tiny_model, tiny_lab):
    with torch.inference_mode():
        model = tiny_model()
    with pytest.raises(ValueError, match=r"within torch\.inference_mode"):
        smft.Lab(model, None, tiny_lab().usage)

    with torch.inference_mode():
        plain = small("llama")
    with pytest.raises(ValueError, match=r"within torch\.inference_mode"):
        smft.add_memory(plain, 1, 256)


@pytest.mark.parametrize("method", ["sparse", "full", "lora"])
def test_a_loss_that_is_not_finite_ends_a_run_and_blames_nothing_else(tiny_lab, method):
    lab = tiny_lab()
    with torch.no_grad():
        lab.model.model.norm.weight.fill_(torch.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(ValueError, match="step 1: the loss is"):
            list(finetune(lab, new_facts(2), method, passes=1, probe_every=0))
