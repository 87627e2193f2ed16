"""Which slots are read, how often, and which of them a batch may change."""

from dataclasses import replace

import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfTransformer

import smft_lab as smft
from smft_lab.facts.world.world import built_in_world
from smft_lab.lab import Lab
from smft_lab.model.memory import observe_reads, value_tables
from smft_lab.model.tokenizer import encode
from smft_lab.slots.addresses import measure_loudness
from smft_lab.slots.group import reads_of
from smft_lab.slots.scores import (
    RULES,
    check_top_t,
    inverse_document_frequency,
    score,
    slot_scores,
    term_frequency,
    top_slots,
)
from smft_lab.slots.selection import Selection
from smft_lab.slots.usage import SPARSE_FROM, Usage, batch_counts, count_reads, measure_usage, read_slots

TEXTS = ["Mira has a dog.", "The dog of Mira is called Biscuit, and it is old.", "Hm?"]
LAYOUTS = [{}, {"memory_at": [0, 2]}, {"memory_at": [0, 2], "memory_shared": False}]


def naive_counts(model, batch) -> list[list[int]]:
    """Reads per table and slot, one read at a time; each real token is looked at alone."""
    tables = value_tables(model)
    counts = [[0] * len(table.weight) for table in tables]
    with observe_reads(model) as reads, torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for position, at in reads.items():
        table = 0 if len(tables) == 1 else position
        for b, row in enumerate(batch["attention_mask"].tolist()):
            for t, real in enumerate(row):
                if real:
                    for slot in at.slots[0][b, t].flatten().tolist():
                        counts[table][slot] += 1
    return counts


def with_padding(batch, columns: int, token: int):
    extra = torch.full((len(batch["input_ids"]), columns), token)
    return {
        "input_ids": torch.cat([batch["input_ids"], extra], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros_like(extra)], dim=1),
    }


# counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [40, 40 * SPARSE_FROM * 100])
def test_the_slots_that_are_read_are_those_with_a_count_however_large_the_table(total):
    generator = torch.Generator().manual_seed(0)
    slots, mask = torch.randint(40, (3, 5, 2, 4), generator=generator), torch.randint(3, (3, 5), generator=generator)
    expected = count_reads(slots, mask, total)
    read, count = read_slots(slots, mask, total)
    assert torch.equal(read, expected.nonzero().squeeze(1))
    assert torch.equal(count, expected[read])
    assert count.dtype == expected.dtype


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("protect", [0.0, 2.0])
def test_a_selection_takes_the_top_t_of_the_scores_of_all_slots(lab, rule, protect):
    batch = encode(lab.tokenizer, TEXTS)
    (count,) = batch_counts(lab.model, batch)
    selection = Selection(lab.model, lab.usage, 20, rule, seed=3, protect=protect)
    with selection.active():
        lab.model(**batch)
        (slots,) = selection.slots
    generator = torch.Generator().manual_seed(3)
    scores = score(rule, count, lab.usage.df[0], lab.usage.batches, generator, lab.usage.count[0])
    assert torch.equal(slots, top_slots(scores, count, None if rule == "all" else 20))


def test_reads_are_counted_at_real_tokens_only():
    slots = torch.tensor([[[[0, 1]], [[1, 2]]], [[[3, 1]], [[4, 4]]]])  # (2, 2, 1, 2)
    mask = torch.tensor([[1, 1], [1, 0]])
    assert count_reads(slots, mask, total=6).tolist() == [1, 3, 1, 1, 0, 0]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_counts_of_a_batch_equal_a_count_read_by_read(tiny_model, tokenizer, options):
    model, batch = tiny_model(**options), encode(tokenizer, TEXTS)
    assert [counts.tolist() for counts in batch_counts(model, batch)] == naive_counts(model, batch)


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_extra_padding_changes_no_count_whatever_it_holds(tiny_model, tokenizer, options):
    model, batch = tiny_model(**options), encode(tokenizer, TEXTS)
    plain = batch_counts(model, batch)
    for token in (tokenizer.pad_token_id, 17):
        padded = batch_counts(model, with_padding(batch, 11, token))
        assert all(torch.equal(one, other) for one, other in zip(plain, padded, strict=True))


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_reads_of_a_batch_add_up_to_real_tokens_times_heads_times_k(tiny_model, tokenizer, options):
    model, batch = tiny_model(**options), encode(tokenizer, TEXTS)
    assert (batch["attention_mask"] == 0).any()
    layers = len(options.get("memory_at", [1]))
    reads = sum(int(counts.sum()) for counts in batch_counts(model, batch))
    assert reads == int(batch["attention_mask"].sum()) * 2 * 4 * layers


def test_counting_leaves_no_hook_and_no_gradient(tiny_model, tokenizer):
    model = tiny_model()
    batch_counts(model, encode(tokenizer, TEXTS))
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_counting_runs_nothing_above_the_last_memory_layer(tiny_model, tokenizer):
    model = tiny_model(memory_at=[0, 1])
    ran = []
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    batch_counts(model, encode(tokenizer, TEXTS))
    assert ran == [0]  # layer 1 ends within its memory layer, and layer 2 never begins


# background usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_usage_counts_reads_and_the_batches_they_came_in(tiny_model, tokenizer, options):
    model = tiny_model(**options)
    batches = [encode(tokenizer, texts) for texts in (TEXTS, TEXTS[:1], ["99 dogs", "no"], TEXTS[1:])]
    usage = measure_usage(model, iter(batches))
    per_batch = [naive_counts(model, batch) for batch in batches]
    tables = range(len(value_tables(model)))
    count = [[sum(counts[i][slot] for counts in per_batch) for slot in range(256)] for i in tables]
    df = [[sum(counts[i][slot] > 0 for counts in per_batch) for slot in range(256)] for i in tables]
    assert usage.batches == 4
    assert usage.count.tolist() == count
    assert usage.df.tolist() == df
    assert 1 < max(map(max, df)) <= 4


def test_usage_needs_a_memory_and_a_batch(tiny_model):
    with pytest.raises(ValueError, match="at least one background batch"):
        measure_usage(tiny_model(), [])
    with pytest.raises(ValueError, match="no memory layer"):
        measure_usage(torch.nn.Linear(2, 2), [])


def made_up_usage() -> Usage:
    """Two tables of 200 slots; 4 reads of 10 in each go to one slot, 3 to a second, 1 to three more."""
    count = torch.zeros(2, 200, dtype=torch.int64)
    count[0, [5, 9, 20, 21, 199]] = torch.tensor([40, 30, 10, 10, 10])
    count[1, [0, 1, 2, 3, 4]] = torch.tensor([10, 10, 10, 30, 40])
    return Usage(batches=12, df=(count > 0).int() * 3, count=count)


def test_share_read_is_the_share_of_slots_that_any_batch_read():
    assert made_up_usage().share_read() == pytest.approx(10 / 400)


def test_top_share_is_the_share_of_reads_that_went_to_the_most_read_slots():
    usage = made_up_usage()
    assert usage.top_share(0.01) == pytest.approx(0.7)  # 2 slots of each table
    assert usage.top_share(0.005) == pytest.approx(0.4)
    assert usage.top_share(0.015) == pytest.approx(0.8)
    assert usage.top_share(1.0) == pytest.approx(1.0)
    assert usage.top_share(1e-9) == pytest.approx(0.4), "at least one slot"


def test_usage_spread_evenly_has_a_top_share_equal_to_its_share_of_slots():
    even = Usage(1, torch.ones(1, 100, dtype=torch.int32), torch.full((1, 100), 7))
    assert even.top_share(0.25) == pytest.approx(0.25)
    assert even.share_read() == 1.0


def test_usage_comes_back_from_its_tensors():
    usage = made_up_usage()
    again = Usage.from_tensors(usage.to_tensors())
    assert again.batches == 12
    assert type(again.batches) is int
    assert torch.equal(again.df, usage.df)
    assert torch.equal(again.count, usage.count)
    assert (again.df.dtype, again.count.dtype) == (torch.int32, torch.int32)


# scores -----------------------------------------------------------------------------------------------

COUNT = torch.tensor([0, 3, 1, 4, 0, 2])
DF = torch.tensor([0, 9, 0, 2, 5, 2], dtype=torch.int32)


def background(seed=0, batches=30, slots=40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (batches, slots), generator=generator)
    counts[:, ::3] *= torch.rand(batches, len(range(0, slots, 3)), generator=generator) < 0.1
    counts[:, 7] = 0  # never read
    counts[:, 8] = 1  # always read
    return counts


def test_tfidf_equals_scikit_learn_but_for_its_plus_one():
    corpus, count = background(), background(seed=1, batches=1)[0]
    count[7], count[8] = 5, 6
    df = (corpus > 0).sum(0).int()
    transformer = TfidfTransformer(norm=None, use_idf=True, smooth_idf=True, sublinear_tf=False).fit(corpus.numpy())
    idf = torch.from_numpy(transformer.idf_) - 1
    torch.testing.assert_close(inverse_document_frequency(df, len(corpus)), idf)
    theirs = torch.from_numpy(transformer.transform(count[None].numpy()).toarray()[0])  # count * (idf + 1)
    ours = score("tfidf", count, df, len(corpus))
    torch.testing.assert_close(ours, (theirs - count) / count.sum())
    assert ours[8] == 0, "a slot that every batch reads says nothing"
    assert ours.max() > 0


def test_each_rule_gives_the_score_it_names():
    tf = torch.tensor([0, 0.3, 0.1, 0.4, 0, 0.2], dtype=torch.double)
    idf = torch.log(torch.tensor([10 / 1, 10 / 10, 10 / 1, 10 / 3, 10 / 6, 10 / 3], dtype=torch.double))
    torch.testing.assert_close(score("tf", COUNT, DF, 9), tf)
    torch.testing.assert_close(score("idf", COUNT, DF, 9), idf)
    torch.testing.assert_close(score("tfidf", COUNT, DF, 9), tf * idf)
    assert score("all", COUNT, DF, 9).tolist() == [1.0] * 6
    generator = torch.Generator().manual_seed(0)
    assert len(set(score("random", COUNT, DF, 9, generator).tolist())) == 6


def test_kl_adds_up_to_the_divergence_of_the_batch_from_the_background():
    reads = torch.tensor([0, 9, 4, 2, 5, 0])
    here = COUNT.double() / 10
    there = (reads.double() + 1) / 26
    expected = scipy.stats.entropy(here.numpy(), there.numpy())
    assert score("kl", COUNT, DF, 9, background=reads).sum().item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="kl needs the background reads"):
        score("kl", COUNT, DF, 9)


def test_every_rule_scores_every_slot_in_double_precision():
    for rule in RULES:
        scores = score(rule, COUNT, DF, 9, torch.Generator(), background=COUNT)
        assert (scores.shape, scores.dtype) == (COUNT.shape, torch.double)


def test_an_unknown_rule_is_refused_naming_those_there_are():
    with pytest.raises(ValueError, match="no rule 'bm25'; there are tfidf, tf, idf, kl, random, all"):
        score("bm25", COUNT, DF, 9)


def test_term_frequency_of_a_batch_that_reads_nothing_is_zero():
    assert term_frequency(torch.zeros(4, dtype=torch.int64)).tolist() == [0.0] * 4


def test_random_depends_on_its_generator_and_nothing_else():
    def scores(seed, count=COUNT, df=DF, batches=9):
        return score("random", count, df, batches, torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = scores(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(scores(5), first)
    assert torch.equal(scores(5, COUNT.flip(0), DF * 2, 99), first)
    assert not torch.equal(scores(6), first)


def test_random_goes_on_from_where_its_generator_is():
    generator = torch.Generator().manual_seed(5)
    assert not torch.equal(score("random", COUNT, DF, 9, generator), score("random", COUNT, DF, 9, generator))


# top-t ------------------------------------------------------------------------------------------------


def test_a_slot_that_is_not_read_is_never_selected_however_high_its_score():
    scores = torch.tensor([9.0, 1.0, 8.0, 2.0])
    assert top_slots(scores, torch.tensor([0, 1, 0, 3]), 3).tolist() == [3, 1]


def test_ties_go_to_the_lower_slot():
    scores = torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0])
    assert top_slots(scores, torch.ones(5, dtype=torch.int64), 4).tolist() == [1, 2, 4, 0]
    many = torch.zeros(1000, dtype=torch.double)
    assert top_slots(many, torch.ones(1000, dtype=torch.int64), 10).tolist() == list(range(10))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), min_size=1, max_size=40),
    t=st.none() | st.integers(1, 50),
)
def test_top_slots_are_the_read_slots_sorted_by_score_and_slot(rows, t):
    scores = torch.tensor([float(score) for score, _ in rows], dtype=torch.double)
    count = torch.tensor([count for _, count in rows])
    read = [slot for slot, (_, count) in enumerate(rows) if count]
    expected = sorted(read, key=lambda slot: (-rows[slot][0], slot))[:t]
    chosen = top_slots(scores, count, t)
    assert chosen.tolist() == expected
    assert chosen.dtype == torch.int64


def test_check_top_t_takes_one_to_all_slots_and_nothing_else():
    check_top_t(1, 256)
    check_top_t(256, 256)
    for top_t in (0, -1, 257):
        with pytest.raises(ValueError, match=f"between 1 and the 256 slots of the table, not {top_t}"):
            check_top_t(top_t, 256)


# slot_scores ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def facts():
    return [replace(fact, statements=fact.statements[:5]) for fact in built_in_world().new_facts(2)]


@pytest.fixture
def make_lab(tiny_model, tokenizer):
    def make(**options):
        model = tiny_model(**options)
        return Lab(model, tokenizer, measure_usage(model, [encode(tokenizer, [text]) for text in TEXTS]))

    return make


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_slot_scores_list_every_read_slot_of_every_table_with_its_parts(make_lab, facts, options):
    lab = make_lab(**options)
    table = slot_scores(lab, facts)
    assert list(table.columns) == ["table", "slot", "count", "tf", "df", "idf", "tfidf", "rank"]
    counts = batch_counts(lab.model, encode(lab.tokenizer, [text for fact in facts for text in fact.statements]))
    assert list(table["table"].unique()) == list(range(len(counts)))
    for layer, count in enumerate(counts):
        rows = table[table["table"] == layer]
        assert sorted(rows["slot"]) == count.nonzero().squeeze(1).tolist()
        assert rows["count"].tolist() == count[rows["slot"].tolist()].tolist()
        assert rows["df"].tolist() == lab.usage.df[layer][rows["slot"].tolist()].tolist()
        assert rows["tf"].sum() == pytest.approx(1.0)
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
        assert rows["tfidf"].is_monotonic_decreasing
        pd.testing.assert_series_equal(rows["tf"] * rows["idf"], rows["tfidf"], check_names=False)
        pd.testing.assert_series_equal(rows["count"] / rows["count"].sum(), rows["tf"], check_names=False)


def test_the_best_ranked_slots_are_those_that_finetuning_would_train(make_lab, facts):
    lab, fact = make_lab(), facts[0]
    count = batch_counts(lab.model, encode(lab.tokenizer, list(fact.statements)))[0]
    best = top_slots(score("tfidf", count, lab.usage.df[0], lab.usage.batches), count, 10)
    assert slot_scores(lab, [fact])["slot"].head(10).tolist() == best.tolist()


def test_one_fact_and_a_list_of_it_score_the_same(make_lab, facts):
    lab, fact = make_lab(), facts[0]
    pd.testing.assert_frame_equal(slot_scores(lab, fact), slot_scores(lab, [fact]))


def test_a_text_longer_than_the_model_reads_is_refused_by_all_that_count_its_reads(lab):
    fact = smft.Fact(("word " * 3000,), "What?", ("word",))
    for read in (smft.slot_scores, smft.core_set, smft.fact_counts):
        with pytest.raises(ValueError, match="tokens long, and the model reads 2048; shorten it"):
            read(lab, [fact] if read is not smft.core_set else fact)


def test_a_text_longer_than_the_model_reads_is_refused_by_all_that_measure_it(lab):
    long, short = "word " * 3000, "A short one."
    facts = [smft.Fact(short, f"{long}?", "word"), smft.Fact(short, "What?", "word")]
    for measure in (
        lambda: measure_loudness(lab, facts),
        lambda: smft.measure_addresses(lab, facts),
        lambda: reads_of(lab, [long]),
        lambda: smft.TextProbe("own", (long,)).measure(lab.model, lab.tokenizer),
        lambda: smft.ChoiceProbe("own", (long,), ((" a", " b"),), (0,)).measure(lab.model, lab.tokenizer),
    ):
        with pytest.raises(ValueError, match="tokens long, and the model reads 2048; shorten it"):
            measure()
