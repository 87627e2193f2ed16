"""The preview of a choice of t agrees with what a finetune would really select."""

import pytest
import torch

import smft_lab as smft
from smft_lab.slots.coverage import coverage, fact_counts
from smft_lab.slots.scores import score, top_slots


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(5, seed=3)


@pytest.fixture(scope="module")
def counts(lab, facts):
    return fact_counts(lab, facts)


def chosen_by_training(lab, facts, t, rule):
    """The slots that one pass of steps changed, over all facts."""
    lab.reset()
    steps = smft.finetune(lab, facts, "sparse", top_t=t, rule=rule, passes=1, probe_every=0)
    slots = {int(slot) for step in steps for slot in (step.slots[0] if step.slots else ())}
    lab.reset()
    return slots


@pytest.mark.parametrize("rule", ["tfidf", "tf", "idf", "all"])
@pytest.mark.parametrize("t", [1, 7, 40])
def test_the_slots_shown_are_those_that_training_chooses(lab, facts, counts, rule, t):
    shown = coverage(lab, counts, rule)
    limit = shown.most if rule == "all" else t
    preview = {int(slot) for slot in shown.slots[shown.ranks <= limit]}
    assert preview == chosen_by_training(lab, facts, t, rule)
    assert shown.at(limit)["chosen"] == len(preview)


def test_shares_are_those_of_the_reads(lab, counts):
    t, shown = 6, coverage(lab, counts, "tfidf")
    shares, union = [], set()
    for (count,) in counts:
        best = top_slots(score("tfidf", count, lab.usage.df[0], lab.usage.batches), count, t)
        shares.append(count[best].sum() / count.sum())
        union |= set(best.tolist())
    background = lab.usage.count[0][sorted(union)].sum() / lab.usage.count[0].sum()
    assert shown.at(t)["of_facts"] == pytest.approx(torch.stack(shares).mean().item())
    assert shown.at(t)["of_background"] == pytest.approx(background.item())


def test_everything_read_is_covered_in_the_end_and_more_changes_nothing(lab, counts):
    shown = coverage(lab, counts, "tfidf")
    assert shown.at(shown.most)["of_facts"] == pytest.approx(1)
    assert shown.at(shown.most) == shown.at(10**9)
    assert (shown.of_facts.diff() >= 0).all()
    assert (shown.chosen.diff() >= 0).all()


def test_tables_are_told_apart_and_share_the_background(tiny_lab, facts):
    lab = tiny_lab(memory_at=[0, 2], memory_shared=False)
    shown = coverage(lab, fact_counts(lab, facts), "tfidf")
    assert {int(slot) // lab.slots for slot in shown.slots} == {0, 1}
    assert 0 < shown.at(shown.most)["of_background"] <= 1


def test_no_facts_and_unknown_rules_are_refused(lab, counts):
    with pytest.raises(ValueError, match="no facts"):
        coverage(lab, [])
    with pytest.raises(ValueError, match="no rule 'best'"):
        coverage(lab, counts, "best")
