"""Whether the background is large enough: usage by growing parts, and how much of the choice stands."""

from itertools import pairwise
from random import Random

import pytest
import torch

from smft_lab.slots.group import choose_group, reads_of
from smft_lab.slots.settling import Settled, growing_usage, settling
from smft_lab.slots.usage import Usage, batch_counts


@pytest.fixture
def documents(corpus, tokenizer):
    return tokenizer(list(corpus.texts(Random(2), 50)))["input_ids"][:41]


@pytest.mark.parametrize("options", [{}, {"memory_at": [0, 2]}, {"memory_at": [0, 2], "memory_shared": False}])
def test_the_whole_usage_is_what_the_documents_read_one_by_one(tiny_model, tokenizer, documents, options):
    model = tiny_model(**options)
    usages = growing_usage(model, tokenizer, documents)
    assert [usage.batches for usage in usages] == [10, 20, 41]
    alone = [
        torch.stack(
            batch_counts(model, {"input_ids": (ids := torch.tensor([one])), "attention_mask": torch.ones_like(ids)})
        )
        for one in documents
    ]
    assert torch.equal(usages[-1].count, sum(alone))
    assert torch.equal(usages[-1].df, sum((one > 0).int() for one in alone))
    assert all((a.df <= b.df).all() and (a.count <= b.count).all() for a, b in pairwise(usages))
    assert usages[0].count.sum() > 0


def test_parts_are_drawn_from_everywhere_by_the_seed(tiny_model, tokenizer, documents):
    model = tiny_model()
    mixed = documents[:20] + [[tokenizer.bos_token_id, 5]] * 21
    half = growing_usage(model, tokenizer, mixed)[1]
    ends = growing_usage(model, tokenizer, mixed[:20])[-1]
    assert not torch.equal(half.df, ends.df)
    assert torch.equal(half.df, growing_usage(model, tokenizer, mixed)[1].df)
    assert not torch.equal(half.df, growing_usage(model, tokenizer, mixed, seed=1)[1].df)


def test_a_choice_has_settled_when_a_part_of_the_background_chooses_the_same():
    def usage(batches, *read_by):
        df = torch.tensor([read_by], dtype=torch.int32)
        return Usage(batches, df, df.clone())

    reads = [[torch.tensor([0, 1, 2, 3])]]
    whole = usage(100, 1, 2, 30, 40)
    assert settling([usage(50, 0, 1, 15, 20), whole], [0], reads, 2) == [Settled(50, 100, 1.0)]
    quarter, half = settling([usage(25, 9, 9, 0, 0), usage(50, 20, 1, 3, 20), whole], [0], reads, 2)
    assert (quarter.same, half.same) == (0.0, 0.5)
    assert str(half) == "50% of the slots are the same with 50 of 100 documents"


def test_settling_compares_choices_as_a_lab_makes_them(lab, documents):
    texts = ["Mira lives in Rome.", "The cat of Mira is called Biscuit.", "Tom was born in 1912.", "Tom sells tea."]
    owners, reads = [0, 0, 1, 1], reads_of(lab, texts)
    usages = growing_usage(lab.model, lab.tokenizer, documents)
    (quarter, half) = settling(usages, owners, reads, 10, protect=1.0)
    chosen = []
    for usage in usages:
        lab.usage = usage
        (slots,) = choose_group(lab, owners, reads, 10, protect=1.0)
        chosen.append(set(slots.tolist()))
    assert quarter.same == len(chosen[0] & chosen[2]) / len(chosen[0])
    assert half.same == len(chosen[1] & chosen[2]) / len(chosen[1])
    assert 0 < half.same < 1


def test_what_cannot_be_measured_is_refused(tiny_model, tokenizer, documents):
    model = tiny_model()
    with pytest.raises(ValueError, match="at least one document"):
        growing_usage(model, tokenizer, [])
    for parts in ((), (0.5,), (1.0, 0.5), (0.0, 1.0)):
        with pytest.raises(ValueError, match="parts must ascend"):
            growing_usage(model, tokenizer, documents, parts)
    with pytest.raises(ValueError, match="at least two backgrounds"):
        settling(growing_usage(model, tokenizer, documents, (1.0,)), [0], [[torch.tensor([1])]], 1)
