"""A finished model gets a memory by forward passes alone, facts are taught by its recipe, and a stop loses nothing."""

import math
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_attach import logits, small

import smft_lab as smft
import smft_lab.experiments.retrofit as retrofit_module
from smft_lab.experiments.retrofit import Retrofit, count_documents
from smft_lab.facts.public.datasets import Question
from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.methods import METHODS, Sparse
from smft_lab.finetuning.methods.sparse import SparseTraining
from smft_lab.finetuning.rows import RowAdam
from smft_lab.finetuning.teaching import CONTEXTS, Teaching, counted_reads, taught_texts
from smft_lab.lab import load
from smft_lab.model.attach import add_memory
from smft_lab.model.fitting import fit_keys, memory_inputs
from smft_lab.model.memory import memory_layers, value_tables
from smft_lab.model.tokenizer import encode, only_answers, pad, predicting_positions, shared_positions
from smft_lab.probes.probes import QuestionProbe
from smft_lab.probes.prompts import PLAIN
from smft_lab.recipe import GATED, PAPER, RETROFIT, SHAPE, Recipe, recipe_to_attach, recipe_to_teach
from smft_lab.reproduce import real
from smft_lab.slots.addresses import (
    compare_addresses,
    measure_addresses,
    measure_blocks,
    measure_loudness,
    weighted_jaccard,
    wordings_of,
)
from smft_lab.slots.group import choose_slots, reads_of
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import measure_usage

RECIPE = replace(
    RETROFIT,
    slots=256,
    heads=2,
    k=4,
    key_dim=16,
    background_texts=12,
    background_questions=12,
    window=16,
    top_t=20,
    batch_size=4,
    passes=2,
    least_steps=1,
)
KNOWN = [Question(f"What is {n} and {n}?", (str(2 * n),)) for n in range(4)]


@pytest.fixture(scope="module")
def words(corpus):
    from random import Random

    return " ".join(corpus.texts(Random(0), 300))


def small_retrofit(tokenizer, words, recipe: Recipe = RECIPE, layers="auto", **options) -> Retrofit:
    """A retrofit of a small random model."""
    given = {"text": words, "questions": KNOWN, "known": KNOWN, "facts": smft.new_facts(4), **options}
    return Retrofit(small("llama"), tokenizer, recipe, layers, **given)


@pytest.fixture
def work(tokenizer, words):
    """Makes a retrofit of a small random model."""
    return partial(small_retrofit, tokenizer, words)


@pytest.fixture
def lab(work):
    done = work(layers=[1])
    list(done)
    return done.lab


def test_a_retrofit_leaves_the_logits_as_they_were_and_trains_nothing(work):
    before = logits(small("llama"))
    done = work()
    stages = {at.stage for at in done}
    assert stages == {"background", "questions", "known", "blocks", "keys", "usage", "addresses"}
    assert torch.equal(logits(done.lab.model), before)
    assert not value_tables(done.lab.model)[0].weight.any()
    memory = memory_layers(done.lab.model)[0]
    assert memory.gate is None
    assert memory.out is None
    assert done.lab.usage.batches == 12 + 4
    assert 0 <= done.settled.same <= 1
    assert list(done.blocks["margin"]) == sorted(done.blocks["margin"], reverse=True)


def test_earlier_facts_are_rehearsed_until_they_are_known_again(lab):
    old, new = smft.new_facts(5)[:3], smft.new_facts(5)[3:]
    before = next(finetune(lab, new, probe_every=0, earlier=old))
    assert before.probes is None
    teaching = Teaching.of(lab, new, earlier=old)
    rehearsed = [text for text in teaching.texts if text.owner >= len(new)]
    assert {text.owner - len(new) for text in rehearsed} == {0, 1, 2}
    assert {text.kind for text in rehearsed} == {"question"}
    assert all(old[text.owner - len(new)].answer in text.text for text in rehearsed)
    assert [text for text in teaching.texts if text.owner < len(new)] == list(Teaching.of(lab, new).texts)
    held = set()
    for step in finetune(lab, new, probe_every=10_000, earlier=old):
        held |= set(step.facts)
        if step.probes:
            assert "earlier" in step.probes
    assert held == {0, 1, 2, 3, 4}
    lab.recipe = replace(lab.recipe, learned_at=100.0)  # all is known at once
    assert [step.facts for step in finetune(lab, new, probe_every=0, earlier=old)][-1]
    assert Teaching.of(lab, new, earlier=old).passes == Teaching.of(lab, new).passes


def test_an_earlier_fact_that_is_changed_now_is_not_rehearsed(lab):
    first, second = smft.new_facts(2)
    anew = replace(first, answers=("Somebody else",), statements=(f"{first.question} Somebody else.",), questions=())
    assert Teaching.of(lab, [anew], earlier=[first, second]).earlier == (second,)


def test_earlier_facts_need_mixed_batches(lab):
    lab.recipe = None
    with pytest.raises(ValueError, match="earlier facts are rehearsed in mixed batches alone"):
        finetune(lab, smft.new_facts(1), earlier=smft.new_facts(2)[1:])


def test_a_run_after_another_keeps_both_groups_in_its_patch(lab):
    old, new = smft.new_facts(3)[:2], smft.new_facts(3)[2:]
    smft.run(lab, old, probe_every=0)
    run = smft.run(lab, new, probe_every=0, earlier=old)
    assert run.settings["earlier"] == 2
    assert run.patch.about["questions"] == [fact.question for fact in (*old, *new)]


def test_how_far_a_choice_has_settled_is_told_of_the_texts_that_would_be_taught(lab, monkeypatch):
    lab.recipe = replace(lab.recipe, keywords=2)
    read = []
    monkeypatch.setattr(retrofit_module, "counted_reads", lambda *asked: read.append(asked[2]) or counted_reads(*asked))
    facts = smft.new_facts(3)
    retrofit_module.settled(lab, lab.usage, facts)
    texts = [text for text in Teaching.of(lab, facts).texts if not text.context]
    assert [text for text in read[0] if not text.context] == texts
    assert sum(text.kind == "question" for text in texts) > sum(len(fact.questions[:4]) for fact in facts)


def test_a_stopped_retrofit_goes_on_with_what_it_had(work, tmp_path, tokenizer):
    whole = work(folder=tmp_path / "whole", text=None, questions=[])
    list(whole)
    first = work(folder=tmp_path / "kept", text=None, questions=[])
    for at in first:
        if at.stage == "known":
            break
    second = work(folder=tmp_path / "kept", text=None, questions=[])
    notes = {at.stage: at.note for at in second}
    assert notes["background"] == notes["questions"] == "kept from the last try"
    assert torch.equal(second.lab.usage.df, whole.lab.usage.df)
    third = work(folder=tmp_path / "kept", text=None, questions=[], seed=1)  # another seed, another background
    assert not any(at.note.startswith("kept") for at in third)


@pytest.mark.parametrize("left", ["[]", '{"asked": "by whom?"}', "{", "a person's own"])
def test_a_file_of_something_else_is_not_taken_for_a_stage_and_stays(work, tmp_path, left):
    (tmp_path / "known.json").write_text(left)
    with pytest.raises(ValueError, match=r"known\.json is of something else, and would be replaced"):
        work(folder=tmp_path)
    assert (tmp_path / "known.json").read_text() == left


def test_a_single_fact_is_told_before_the_work(work):
    with pytest.raises(ValueError, match="give at least two facts, or none"):
        work(facts=smft.new_facts(1))


def test_as_many_known_questions_are_looked_for_as_wanted(work):
    assert (work()._search().limit, work(known_limit=200)._search().limit) == (60, 200)
    with pytest.raises(ValueError, match="known_limit must be at least 1, not 0"):
        work(known_limit=0)


def test_usage_from_kept_hidden_states_is_that_of_forward_passes(tokenizer, words):
    model = add_memory(small("llama"), [1], 256, heads=2, k=4, key_dim=16, whiten=True)
    documents = [tokenizer(words[i : i + 60])["input_ids"] for i in range(0, 600, 60)]
    inputs = memory_inputs(model, [_without_end(pad(tokenizer, documents))])
    fit_keys(model, inputs)
    half, usage = count_documents(model, inputs, [len(document) for document in documents])
    expected = measure_usage(model, [_without_end(pad(tokenizer, [document])) for document in documents])
    assert torch.equal(usage.df, expected.df)
    assert torch.equal(usage.count, expected.count)
    assert half.batches == 5


def _without_end(batch):
    mask = batch["attention_mask"].clone()
    mask[torch.arange(len(mask)), mask.sum(1) - 1] = 0
    return {"input_ids": batch["input_ids"], "attention_mask": mask}


@pytest.mark.parametrize("keys", ["random", "kmeans", "pca"])
def test_whitened_queries_have_no_loud_dimension_whatever_the_keys(keys, tokenizer, words):
    model = add_memory(small("llama"), [1], 256, heads=2, k=4, key_dim=16, whiten=True)
    with torch.no_grad():  # a hidden dimension that drowns all others, as finished models have
        model.model.layers[1].post_attention_layernorm.weight[3] = 500.0
    batch = encode(tokenizer, [words[i : i + 80] for i in range(0, 4000, 80)])
    plain = {position: x.clone() for position, x in memory_inputs(model, [batch]).items()}
    fit_keys(model, plain, keys)
    addressing = memory_layers(model)[0].keys
    x = (plain[0] - addressing.mean) / addressing.deviation
    assert torch.allclose(x.mean(0), torch.zeros(32), atol=1e-4)
    assert torch.allclose(x.std(0), torch.ones(32), atol=1e-3)
    slots = addressing(plain[0].unsqueeze(0))[0]
    assert len(slots.unique()) > 100


def test_rounding_does_not_choose_the_reads_behind_a_layer_norm(tokenizer, words):
    """What a layer norm gives sums up to nothing, so that a principal direction of it is rounding alone."""
    model = add_memory(small("gpt_neox"), [1], 1024, heads=2, k=4, key_dim=32, whiten=True)
    batch = encode(tokenizer, [words[i : i + 80] for i in range(0, 4000, 80)])
    (states,) = memory_inputs(model, [batch]).values()
    fit_keys(model, {0: states}, "pca")
    read = memory_layers(model)[0].keys
    noise = 1 + 1e-6 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    before, after = (read(x.unsqueeze(0))[0] for x in (states, states * noise))
    assert (before == after).float().mean() > 0.99


def test_addressing_is_fitted_to_all_of_the_background_or_to_where_its_questions_are_answered(work, tokenizer):
    for fitted in ("all", "answer"):
        done = work(replace(RECIPE, fitted=fitted), layers=[1])
        list(done)
        documents, states = done.lab.documents, []
        for number, ids in enumerate(documents):
            batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            (x,) = memory_inputs(done.lab.model, [batch]).values()
            if fitted == "answer":
                question = number - RECIPE.background_texts
                text = tokenizer.decode(ids, skip_special_tokens=True)
                answers = [KNOWN[question].answers] if question >= 0 else []
                x = x[predicting_positions(tokenizer, [text], answers)[0]] if answers else x[:0]
            states.append(x)
        expected = torch.cat(states)
        addressing = memory_layers(done.lab.model)[0].keys
        assert torch.allclose(addressing.mean, expected.mean(0), atol=1e-5)
        assert torch.allclose(addressing.deviation, expected.std(0), atol=1e-5)
        assert len(expected) < sum(map(len, documents)) or fitted == "all"


def test_blocks_for_what_is_fitted_to_answers_are_ranked_by_what_answers_read_alone(work, tokenizer, words):
    done = work(replace(RECIPE, fitted="answer"))
    list(done)
    assert sorted(done.blocks["block"]) == list(range(len(small("llama").model.layers)))  # the last one, too
    texts, asked = done.lab.documents[: RECIPE.background_texts], done.lab.documents[RECIPE.background_texts :]
    answering = [torch.arange(len(ids)) >= len(ids) - 3 for ids in asked]
    facts, tables = smft.new_facts(4), []
    for others in (texts, [ids[::-1] for ids in texts]):
        nowhere = [torch.zeros(len(ids), dtype=torch.bool) for ids in others]
        given = (small("llama"), tokenizer, RECIPE, [*others, *asked], facts, PLAIN)
        tables.append(measure_blocks(*given, answering=[*nowhere, *answering]))
    assert tables[0].equals(tables[1])
    everywhere = [torch.ones(len(ids), dtype=torch.bool) for ids in (*texts, *asked)]
    assert not tables[0].equals(measure_blocks(*given[:3], [*texts, *asked], facts, PLAIN, answering=everywhere))


def test_addresses_are_where_an_answer_is_predicted_if_only_those_reads_count(lab):
    facts = smft.new_facts(3)
    per_token = RECIPE.heads * RECIPE.k
    texts, owners = wordings_of(facts, lab.form, lab.tokenizer)
    last = [reads[0][-per_token:] for reads in reads_of(lab, texts)]
    expected = compare_addresses(last, owners, lab.usage.df[0], lab.usage.batches)
    assert measure_addresses(lab, facts) != [expected]
    lab.recipe = replace(lab.recipe, counted="answer")
    assert measure_addresses(lab, facts) == [expected]


def test_addresses_of_a_statement_are_where_it_predicts_its_answer_if_only_those_reads_count(lab):
    lab.recipe = replace(lab.recipe, counted="answer")
    facts = [replace(fact, statements=fact.statements[:1], questions=()) for fact in smft.new_facts(3)]
    told = [fact.statements[0] for fact in facts]
    asked = [reads[0][-RECIPE.heads * RECIPE.k :] for reads in reads_of(lab, [PLAIN.prompt(f.question) for f in facts])]
    answering = predicting_positions(lab.tokenizer, told, [fact.answers for fact in facts])
    read = [reads[0] for reads in reads_of(lab, told, answering)]
    both = [row for pair in zip(asked, read, strict=True) for row in pair]
    expected = compare_addresses(both, [0, 0, 1, 1, 2, 2], lab.usage.df[0], lab.usage.batches)
    assert measure_addresses(lab, facts) == [expected]


def test_fewer_hidden_states_than_keys_are_refused(tokenizer):
    model = add_memory(small("llama"), [1], 256, heads=2, k=4, key_dim=16)
    with pytest.raises(ValueError, match="too few for 16 keys"):
        fit_keys(model, memory_inputs(model, [encode(tokenizer, ["One."])]), "kmeans")


@pytest.mark.parametrize("keys", ["random", "kmeans", "pca"])
def test_an_addressing_is_fitted_to_no_fewer_than_two_hidden_states(keys):
    model = add_memory(small("llama"), [1], 256, heads=2, k=4, key_dim=16, whiten=True)
    with pytest.raises(ValueError, match="1 hidden states are too few to fit an addressing to"):
        fit_keys(model, {0: torch.zeros(1, 32)}, keys)


def test_only_rows_chosen_before_the_first_step_move_and_reset_brings_the_base_back(lab):
    before = logits(lab.model)
    facts = smft.new_facts(4)
    teaching = Teaching.of(lab, facts)
    owners, reads = counted_reads(lab, facts, teaching.texts, RECIPE.counted)
    rows = choose_slots(lab.usage, owners, reads, 20, **RECIPE.choosing)[0]
    steps = list(finetune(lab, facts, probe_every=0))
    assert len(steps) - 1 == teaching.steps == 2 * -(-len(teaching.texts) // 4)
    patch = Patch.between(lab)  # refuses if anything but value rows differs
    assert 0 < len(patch) <= len(rows) <= 4 * 20
    assert set(patch.slots[0].tolist()) <= set(rows.tolist())
    assert not torch.equal(logits(lab.model), before) or len(patch)
    lab.reset()
    assert torch.equal(logits(lab.model), before)


def test_the_fast_engine_gives_the_losses_of_the_plain_way(lab):
    facts = smft.new_facts(4)
    losses = {}
    for fast in (True, False):
        lab.reset()
        losses[fast] = [step.loss for step in finetune(lab, facts, probe_every=0, fast=fast, lr=0.1)][1:]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert losses[True][-1] != losses[True][0]


def test_a_kl_penalty_keeps_the_predictions_of_what_is_not_taught(lab):
    facts = smft.new_facts(4)
    asked = [f"Question: {fact.questions[0]}" for fact in facts]
    batch = encode(lab.tokenizer, asked)
    inputs, mask = {name: batch[name] for name in ("input_ids", "attention_mask")}, batch["attention_mask"].bool()

    def predictions() -> torch.Tensor:
        with torch.no_grad():
            return lab.model(**inputs).logits[mask].log_softmax(-1)

    base, moved = predictions(), {}
    for weight in (0.0, 30.0):
        lab.reset()
        steps = list(finetune(lab, facts, probe_every=0, recipe=replace(RECIPE, kl_anchor=weight), lr=0.5, passes=4))
        assert steps[-1].loss < steps[1].loss
        moved[weight] = torch.nn.functional.kl_div(predictions(), base, log_target=True, reduction="batchmean")
    assert moved[30.0] < 0.75 * moved[0.0]


def test_what_is_learned_is_left_out_of_later_passes(lab, monkeypatch):
    facts = smft.new_facts(4)
    every = {(text.owner, text.text.strip()) for text in Teaching.of(lab, facts).texts}
    learned = set(sorted(every)[:: len(every) // 3])
    came, update = [], SparseTraining.update

    def with_losses(self, batch):
        texts = lab.tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
        came.append([text.strip() for text in texts])
        nats = [0.1 if (owner_of[text], text) in learned else 0.5 for text in came[-1]]
        return replace(update(self, batch), nats=tuple(nats))

    owner_of = {text: owner for owner, text in every}
    monkeypatch.setattr(SparseTraining, "update", with_losses)
    recipe = replace(RECIPE, learned_at=0.3)
    steps = list(finetune(lab, facts, probe_every=10_000, recipe=recipe, passes=3))[1:]
    per_pass = Teaching.of(lab, facts).per_pass
    texts = [text for batch in came for text in batch]
    assert sorted(texts[: len(every)]) == sorted(owner_of)
    left = sorted(text for owner, text in every - learned)
    assert sorted(texts[len(every) :]) == sorted(left * 2)
    fewest = math.ceil(len(left) / recipe.batch_size)
    assert [step.passes for step in steps] == [1] * per_pass + [2] * fewest + [3] * fewest
    assert [step.probes is not None for step in steps] == [False] * (len(steps) - 1) + [True]


def test_a_run_ends_when_all_is_learned(lab):
    facts = smft.new_facts(4)
    steps = list(finetune(lab, facts, probe_every=10_000, recipe=replace(RECIPE, learned_at=1e3), passes=6))
    assert steps[-1].step == Teaching.of(lab, facts).per_pass
    assert [step.last for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].probes is not None


def test_how_well_each_text_is_known_is_told_whichever_way_it_is_computed(lab):
    facts = smft.new_facts(4)
    owners, texts = next(iter(Teaching.of(lab, facts)))
    inputs = encode(lab.tokenizer, list(texts))
    only_answers(lab.tokenizer, texts, [facts[owner].answers for owner in owners], inputs)
    expected = []
    for row in range(len(texts)):
        with torch.no_grad():
            logits = lab.model(input_ids=inputs["input_ids"][row : row + 1]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, inputs["labels"][row, 1:], reduction="none")
            expected.append(each.max().item())  # 0 where nothing is to be learned
    for fast in (True, False):
        method = Sparse(lr=1e-6, top_t=5, rule="tfidf", optimizer="sgd", fast=fast).start(lab)
        method.begin()
        nats = method.update(Batch(inputs, inputs["attention_mask"])).nats
        method.finish()
        assert nats == pytest.approx(expected, rel=1e-4)


def test_a_text_without_a_loss_is_not_a_learned_one(lab, monkeypatch):
    update = SparseTraining.update

    def without_loss(self, batch):
        return replace(update(self, batch), nats=(float("nan"),) * len(batch.inputs["input_ids"]))

    monkeypatch.setattr(SparseTraining, "update", without_loss)
    for learned_at in (0.0, 0.3):
        lab.reset()
        steps = list(finetune(lab, smft.new_facts(4), probe_every=0, recipe=replace(RECIPE, learned_at=learned_at)))
        assert steps[-1].step == Teaching.of(lab, smft.new_facts(4)).steps
        assert [step.last for step in steps] == [False] * (len(steps) - 1) + [True]


def test_a_kl_penalty_without_the_model_of_before_is_refused_at_once(tiny_lab):
    recipe = replace(RECIPE, kl_anchor=0.3)
    with pytest.raises(ValueError, match="only added memory can be left out"):
        finetune(tiny_lab(), smft.new_facts(2), recipe=recipe)


def test_every_method_sees_the_same_mixed_batches_of_many_facts(lab):
    facts = smft.new_facts(6)
    one, again = (list(Teaching.of(lab, facts, seed=3)) for _ in range(2))
    assert one == again
    assert max(len(set(owners)) for owners, _ in one) > 1
    half = len(one) // 2
    assert sorted(texts for _, texts in one[:half]) == sorted(texts for _, texts in one[half:])
    assert not any(fact.question in text for fact in facts for _, texts in one for text in texts)


def test_few_facts_get_more_passes_unless_it_is_said_how_many(lab):
    recipe = replace(RECIPE, least_steps=30)
    few, many = (Teaching.of(lab, smft.new_facts(count), recipe=recipe) for count in (1, 20))
    assert 30 <= few.steps < 30 + few.per_pass
    assert many.passes == recipe.passes
    assert Teaching.of(lab, smft.new_facts(1), passes=1, recipe=recipe).passes == 1


def test_the_rate_falls_to_zero_where_the_recipe_says_so(lab):
    rates = []
    step = RowAdam.step

    def watched(self, rows, grads):
        rates.append(self.lr)
        return step(self, rows, grads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowAdam, "step", watched)
        list(finetune(lab, smft.new_facts(4), probe_every=0, lr=0.4, recipe=replace(RECIPE, decay=True)))
    assert rates == pytest.approx([0.4 * (1 - i / len(rates)) for i in range(len(rates))])


@pytest.mark.parametrize("own", [None, RECIPE])
def test_a_recipe_that_is_given_says_t_rate_and_optimizer(lab, own):
    lab.recipe, lab.defaults = own, {"sparse": {"top_t": 3, "lr": 0.7, "optimizer": "adam"}}
    given = replace(RECIPE, name="given", top_t=5, lr=2.0, optimizer="sgd", momentum=0.0)
    run = smft.run(lab, smft.new_facts(2), probe_every=0, recipe=given)
    assert [run.summary()[name] for name in ("top_t", "lr", "optimizer")] == [5, 2.0, "sgd"]
    assert len(run.patch) <= 2 * 5
    lab.reset()
    mine = smft.run(lab, smft.new_facts(2), probe_every=0, recipe=given, lr=1.5)
    assert mine.summary()["lr"] == 1.5
    lab.reset()
    assert smft.run(lab, smft.new_facts(2), passes=1, probe_every=0).summary()["lr"] == 0.7


def test_momentum_moves_a_row_on_the_way_it_went():
    table = torch.zeros(3, 2)
    plain, heavy = RowAdam(table.clone(), 0.1), RowAdam(table.clone(), 0.1, momentum=0.9)
    rows, one = torch.tensor([1]), torch.ones(1, 2)
    for optimizer in (plain, heavy):
        optimizer.step(rows, one)
        optimizer.step(rows, -0.1 * one)
    assert plain.table[1, 0] < 0  # the second gradient points the other way
    reference = torch.zeros(1, 2, requires_grad=True)
    adam = torch.optim.Adam([reference], lr=0.1, betas=(0.9, 0.999))
    for grad in (one, -0.1 * one):
        reference.grad = grad
        adam.step()
    assert torch.allclose(heavy.table[1], reference[0], atol=1e-6)
    assert not heavy.table[[0, 2]].any()


def test_a_row_that_matters_little_moves_little_above_a_floor():
    grads = torch.tensor([[3.0, 4.0], [0.03, 0.04]])
    table, rows = torch.zeros(5, 2), torch.tensor([4, 1])
    adam, floored = RowAdam(table.clone(), 0.1), RowAdam(table.clone(), 0.1, floor=1.0)
    reference = torch.zeros(2, 2, requires_grad=True)
    same = torch.optim.Adam([reference], lr=0.1, betas=(0.0, 0.999))
    for scale in (1.0, 0.5):
        reference.grad = scale * grads
        seen = 1.0 if scale == 1.0 else (1 + scale**2) / 2
        same.param_groups[0]["eps"] = (seen * grads.square().mean()).sqrt().item()
        for optimizer in (adam, floored):
            optimizer.step(rows, scale * grads)
        same.step()
    assert torch.allclose(adam.table[4], adam.table[1])  # as far, at a hundredth of the gradient
    assert torch.allclose(floored.table[rows], reference.detach(), rtol=1e-2)
    assert not floored.table[[0, 2, 3]].any()
    again = RowAdam(floored.table.clone(), 0.1, floor=1.0)
    again.load_state_dict(floored.state_dict())
    for optimizer in (floored, again):
        optimizer.step(rows, grads)
    assert torch.equal(again.table, floored.table)


def test_a_statement_that_answers_before_it_says_what_it_is_about_is_not_taught(lab):
    fact = smft.Fact(("Rex is the dog of Mira.", "The dog of Mira is Rex."), "Who is Mira's dog?", ("Rex",))
    texts = Teaching.of(lab, [fact]).texts
    assert {text.text for text in texts} == {"The dog of Mira is Rex."}


def test_a_fact_is_not_held_to_slots_that_the_other_facts_read_too(lab):
    shared, own = torch.tensor([5, 5, 5]), [torch.tensor([n, n]) for n in (10, 11, 12, 13)]
    lab.usage.df.zero_()
    reads = [[torch.cat([shared, slots])] for slots in own]
    assert choose_slots(lab.usage, range(4), reads, 1)[0].tolist() == [5]
    assert choose_slots(lab.usage, range(4), reads, 1, protect=50.0)[0].tolist() == [10, 11, 12, 13]


def test_slots_that_too_much_of_the_background_reads_are_never_chosen_unless_there_are_no_others(lab):
    common, rare = torch.tensor([5, 5, 5, 5]), torch.tensor([10])
    lab.usage.df.zero_()
    lab.usage.df[0, 5] = lab.usage.batches // 4
    both = [[torch.cat([common, rare])]]
    assert choose_slots(lab.usage, [0], both, 2)[0].tolist() == [5, 10]
    assert choose_slots(lab.usage, [0], both, 2, max_df=0.1)[0].tolist() == [10]
    assert choose_slots(lab.usage, [0], [[common]], 2, max_df=0.1)[0].tolist() == [5]


def test_what_stands_before_the_lab_s_questions_and_in_taught_contexts_is_read_as_background(tokenizer, monkeypatch):
    counted, batches = [], retrofit_module.document_batches
    monkeypatch.setattr(retrofit_module, "document_batches", lambda *given: counted.extend(given[1]) or batches(*given))
    asked = [Question(f"Who is {name}?", (name,)) for name in map(str, range(16))]
    recipe = replace(RECIPE, background_texts=0, background_questions=16)
    for _ in Retrofit(
        small("llama"), tokenizer, recipe, [1], text="Rome is old. " * 200, questions=asked, shots=[("Why?", "So")]
    ):
        pass
    texts = [tokenizer.decode(ids) for ids in counted]
    for opening in [[("Why?", "So")], *CONTEXTS]:
        shown = "".join(f"Question: {question}\nAnswer: {answer}\n" for question, answer in opening)
        assert sum(shown in text for text in texts) == 1


def test_shared_tokens_are_what_a_fact_is_about(tokenizer):
    told = {
        0: ("The dog of Mira is Rex.", "Question: Who is the dog of Mira? Answer: Rex."),
        1: ("The cat of Tom is Ada.", "Question: Who is the cat of Tom? Answer: Ada."),
    }
    texts = [text for mine in told.values() for text in mine]
    positions = shared_positions(tokenizer, texts, [("Rex",), ("Rex",), ("Ada",), ("Ada",)], [0, 0, 1, 1])
    found = [
        "".join(tokenizer.decode([tokenizer(text)["input_ids"][i]]) for i in kept).split()
        for text, kept in zip(texts, positions, strict=True)
    ]
    assert found == [["dog", "Mira"], ["dog", "Mira"], ["cat", "Tom"], ["cat", "Tom"]]


def test_addresses_tell_a_fact_that_reads_its_own_slots_from_one_that_does_not():
    df = torch.zeros(100, dtype=torch.int32)
    found = [
        torch.tensor([1, 2, 3, 50]),
        torch.tensor([1, 2, 3, 50]),
        torch.tensor([4, 5, 6, 50]),
        torch.tensor([4, 5, 6, 50]),
    ]
    one = compare_addresses(found, [0, 0, 1, 1], df, 20)
    assert one.same > 0.99
    assert one.different < 0.3  # the slot that all read
    assert one.weak == ()
    lost = compare_addresses([found[0], torch.tensor([7, 8, 50]), found[2], found[3]], [0, 0, 1, 1], df, 20)
    assert lost.weak == (0,)
    assert lost.margin < one.margin


def test_a_block_where_other_texts_read_what_is_written_comes_last(tokenizer, words, monkeypatch):
    """Each block's memory is beside a feed-forward, whose input is made to be what a test wants of a block."""
    from smft_lab.slots import addresses

    model, facts = small("llama", num_hidden_layers=3), smft.new_facts(4)
    documents = [tokenizer(part)["input_ids"] for part in words.split(". ")[:40]]
    plain = addresses.inputs_of

    @contextmanager
    def one_state_for_all(modules):
        with plain(modules) as got:
            yield got
        got[0] = torch.zeros_like(got[0]) + got[0].flatten(0, -2)[0]  # block 0: every token reads the same

    recipe = replace(RECIPE, keys="random", slots=4096, top_t=20)
    before = measure_blocks(model, tokenizer, recipe, documents, facts, PLAIN, [0, 1, 2])
    assert set(before) == {"block", "same", "different", "margin", "stray", "weak"}
    monkeypatch.setattr(addresses, "inputs_of", one_state_for_all)
    after = measure_blocks(model, tokenizer, recipe, documents, facts, PLAIN, [0, 1, 2]).set_index("block")
    assert list(after.index)[-1] == 0
    assert after["stray"][0] > 2 * after["stray"][1]


def test_weighted_jaccard_is_that_of_sets_where_all_weights_are_one():
    assert weighted_jaccard({1: 1.0, 2: 1.0}, {2: 1.0, 3: 1.0}) == pytest.approx(1 / 3)
    assert weighted_jaccard({}, {}) == 0


def test_loudness_is_what_the_memory_adds_over_what_was_there(lab):
    facts = smft.new_facts(2)
    assert measure_loudness(lab, facts).median == 0
    assert "too quiet" in measure_loudness(lab, facts).warning()
    with torch.no_grad():
        value_tables(lab.model)[0].weight.fill_(1.0)
    one = measure_loudness(lab, facts).median
    with torch.no_grad():
        value_tables(lab.model)[0].weight.fill_(2.0)
    assert measure_loudness(lab, facts).median == pytest.approx(2 * one, rel=1e-3)
    with torch.no_grad():
        value_tables(lab.model)[0].weight.fill_(1000.0)
    assert "too loud" in measure_loudness(lab, facts).warning()


def test_a_lab_keeps_its_recipe_and_its_form(lab, tmp_path):
    lab.save(tmp_path / "lab")
    again = load(tmp_path / "lab")
    assert again.recipe == RECIPE
    assert again.form == PLAIN
    assert torch.equal(memory_layers(again.model)[0].keys.mean, memory_layers(lab.model)[0].keys.mean)


def test_dense_methods_leave_an_empty_memory_as_it_is(lab):
    for method in METHODS.keys() - {"sparse"}:
        lab.reset()
        list(finetune(lab, smft.new_facts(2), method, passes=1, probe_every=0))
        assert not value_tables(lab.model)[0].weight.any()
        assert torch.equal(
            memory_layers(lab.model)[0].keys.query.weight, lab.base("model.layers.1.mlp.memory.keys.query.weight")
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"counted": "some"}, "counted must be one of all, shared, answer"),
        ({"fitted": "some"}, "fitted must be one of all, answer"),
        ({"fitted": "answer", "background_questions": 0}, "needs questions in the background"),
        ({"choice": "group", "order": "stream"}, "only where they are taught mixed"),
        ({"statements": 0, "questions": 0}, "must teach statements, questions, or both"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"background_texts": 0, "background_questions": 0}, "needs a background"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(RETROFIT, **changed)


def test_a_recipe_of_unknown_switches_is_refused():
    assert Recipe.from_dict(PAPER.to_dict()) == PAPER
    with pytest.raises(ValueError, match="has no 'colour'"):
        Recipe.from_dict({"colour": "red"})


def test_switches_change_how_a_lab_is_taught_and_not_how_its_memory_was_made():
    own = replace(RETROFIT, slots=256, top_t=7)
    assert recipe_to_teach(own, []) is None
    assert recipe_to_teach(own, ["floor=0", "decay=true"]) == replace(own, floor=0.0, decay=True)
    assert recipe_to_teach(own, ["lr=1", "paper"]) == replace(
        PAPER, lr=1.0, **{name: getattr(own, name) for name in SHAPE}
    )
    assert recipe_to_teach(None, ["retrofit", "lr=1"]) == replace(RETROFIT, lr=1.0)
    changed = replace(own, choice="batch", order="stream", decay=True, lr=4e-5)  # which one by one would be refused
    name, *switches = changed.describe(own).split(", ")
    assert name == "retrofit"
    assert recipe_to_teach(own, switches) == changed
    assert recipe_to_attach(["gated", "slots=1024"]) == replace(GATED, slots=1024)


def test_a_known_reply_is_scored_as_the_model_wrote_it_behind_the_question(lab, monkeypatch):
    pairs = []
    monkeypatch.setattr(real, "log_likelihoods", lambda model, tokenizer, asked: pairs.extend(asked) or [0.0])
    known = QuestionProbe("known", ("Who?",), (("Ann",),), (("", ""),), PLAIN, "prefix", (" Ann",))
    lab.probes.probes.append(known)
    real._replies(lab)
    assert pairs == [("Question: Who?\nAnswer:", " Ann\n")]


def test_the_wording_that_the_probe_of_taught_ones_asks_is_always_taught():
    facts = smft.new_facts(8)
    assert all(len(fact.questions) > 2 for fact in facts)
    for seed in range(3):
        texts = {text.text for text in taught_texts(facts, PLAIN, 1, 2, 0, seed)}
        assert texts >= {PLAIN.answered(fact.questions[0], fact.answer) for fact in facts}
        assert len(texts) == 3 * len(facts)


def test_keywords_are_taught_besides_all_else_and_are_of_one_fact_alone():
    facts = [
        smft.Fact(
            "Marta lives in Turku.", "Where does Marta live?", "Turku", questions=("In which town does Marta live?",)
        ),
        smft.Fact(
            "Marta's cat is Biscuit.", "Who is Marta's cat?", "Biscuit", questions=("What is Marta's cat called?",)
        ),
    ]
    usual = [text.text for text in taught_texts(facts, PLAIN, 1, 4, 2)]
    more = taught_texts(facts, PLAIN, 1, 4, 2, keywords=4)
    assert {*usual} < {text.text for text in more}
    words = [(text.owner, text.text.casefold()) for text in more if text.text not in usual]
    assert {owner for owner, _ in words} == {0, 1}
    own = ("live", "town"), ("cat", "called")  # "Marta" alone is of both
    assert all(any(word in text for word in own[owner]) for owner, text in words)
    assert not {PLAIN.answered(fact.question, fact.answer) for fact in facts} & {text.text for text in more}


def test_keywords_are_not_of_a_fact_that_was_taught_before():
    fact = smft.Fact(
        "Marta lives in Turku.", "Where does Marta live?", "Turku", questions=("In which town does Marta live?",)
    )
    before = smft.Fact("Marta's town is Dull.", "Which town is Marta's?", "Dull")

    def made(*beside):
        texts = taught_texts([fact], PLAIN, 0, 1, 0, keywords=12, beside=beside)
        return {text.text.casefold() for text in texts}

    assert not all("live" in text for text in made())
    assert all("live" in text for text in made(before))


def test_a_persons_own_facts_get_keywords_where_others_get_none():
    fact = smft.Fact("The spare key hangs here.", "Where is it?", "here", questions=("Where does the spare key hang?",))
    people, own = smft.new_facts(2), [fact]

    def texts(facts, **counts):
        return len(taught_texts(facts, PLAIN, 1, 4, 2, **counts))

    assert RETROFIT.keywords == 0 < RETROFIT.own_keywords
    assert texts(people, own_keywords=3) == texts(people)
    assert texts(own) < texts(own, own_keywords=1) == texts(own, keywords=1) <= texts(own, own_keywords=3)


def test_a_recipe_that_was_saved_before_a_field_was_there_does_as_it_did():
    values = replace(RETROFIT, lr=0.2).to_dict()
    for name in ("fitted", "threshold", "floor", "anchor", "keywords", "own_keywords"):
        del values[name]
    assert Recipe.from_dict(values) == replace(RETROFIT, lr=0.2, floor=0.0, own_keywords=0)
