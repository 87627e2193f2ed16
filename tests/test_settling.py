"""Whether the background is large enough: how much of the choice of slots stands with a part of it."""

import pytest
import torch

from smft_lab.slots.settling import Settled, settling
from smft_lab.slots.usage import Usage


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


def test_one_background_alone_is_refused():
    df = torch.zeros(1, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="at least two backgrounds"):
        settling([Usage(1, df, df)], [0], [[torch.tensor([1])]], 1)
