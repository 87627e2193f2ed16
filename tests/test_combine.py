"""Patches together: applied, taken out and combined in any order, the rows are always exactly those that are held."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smft_lab.lab import Lab
from smft_lab.model.memory import value_tables
from smft_lab.slots.combine import combine, conflicts, diff, hold
from smft_lab.slots.patch import Patch, fingerprint
from smft_lab.slots.usage import Usage

ROWS, WIDTH = 256, 32


@pytest.fixture(scope="module")
def lab(tiny_model, tokenizer):
    model = tiny_model(memory_at=[0, 2], memory_shared=False)
    shape = (2, ROWS)
    return Lab(model, tokenizer, Usage(20, torch.zeros(shape, dtype=torch.int32), torch.zeros(shape)))


@pytest.fixture(scope="module")
def base(lab):
    return fingerprint(lab)


def patch_of(base: str, *tables: dict[int, float], name: str = "the patch") -> Patch:
    """A patch that sets every number of a row to one value, per table."""
    slots = [torch.tensor(sorted(table), dtype=torch.int64) for table in tables]
    values = [torch.tensor([[table[i]] * WIDTH for i in sorted(table)]).view(len(table), WIDTH) for table in tables]
    return Patch(slots, values, base, name=name)


def rows(lab) -> list[dict[int, float]]:
    """Per table, slot -> its value, where the model isn't the base; every other row must be the base's, bitwise."""
    found = []
    for name, table in zip(*_named(lab), strict=True):
        changed = (table.weight != lab.base(name)).any(1).nonzero().squeeze(1).tolist()
        assert all((table.weight[i] == table.weight[i, 0]).all() for i in changed)
        found.append({i: table.weight[i, 0].item() for i in changed})
    return found


def _named(lab):
    from smft_lab.slots.patch import named_tables

    return named_tables(lab.model)


NUMBERS = st.integers(1, 9).map(float)
TABLES = st.dictionaries(st.integers(0, 7), NUMBERS, max_size=4)  # few slots, so that patches meet
PATCHES = st.lists(st.tuples(TABLES, TABLES), min_size=1, max_size=4)
ACTIONS = st.lists(st.tuples(st.sampled_from(["apply", "revert", "hold", "reset"]), st.integers(0, 15)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(PATCHES, ACTIONS)
def test_whatever_is_done_with_patches_in_whatever_order_only_their_rows_move_and_the_base_comes_back(
    lab, base, tables, actions
):
    patches = [patch_of(base, *two) for two in tables]
    lab.reset()
    expected = [{}, {}]
    for action, number in actions:
        i = number % len(patches)
        if action == "apply":
            patches[i].apply(lab)
            expected = [{**held, **mine} for held, mine in zip(expected, tables[i], strict=True)]
        elif action == "revert":
            patches[i].revert(lab)
            held = zip(expected, tables[i], strict=True)
            expected = [{slot: value for slot, value in one.items() if slot not in mine} for one, mine in held]
        elif action == "hold":
            chosen = [at for at in range(len(patches)) if number >> at & 1]
            hold(lab, [patches[at] for at in chosen], on_conflict="last")
            expected = [{}, {}]
            for at in chosen:
                expected = [{**held, **mine} for held, mine in zip(expected, tables[at], strict=True)]
        else:
            lab.reset()
            expected = [{}, {}]
        assert rows(lab) == expected
    hold(lab, [])
    assert rows(lab) == [{}, {}]
    assert all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())


@settings(max_examples=60, deadline=None)
@given(PATCHES)
def test_rows_of_one_patch_are_taken_over_exactly_and_the_last_one_wins_a_shared_row(tables):
    patches = [patch_of("b", *two) for two in tables]
    together = combine(patches, on_conflict="last")
    for table in range(2):
        expected = {slot: value for two in tables for slot, value in two[table].items()}
        assert together.slots[table].tolist() == sorted(expected)
        assert together.values[table].tolist() == [[expected[slot]] * WIDTH for slot in sorted(expected)]
    differing = {(line.table, line.slot) for line in conflicts(patches).itertuples()}
    assert differing == {
        (table, slot)
        for table in range(2)
        for slot in range(8)
        if len({two[table][slot] for two in tables if slot in two[table]}) > 1
    }


def test_disjoint_patches_combine_without_being_asked_how(base):
    together = combine([patch_of(base, {1: 1.0}, {}), patch_of(base, {0: 2.0}, {5: 3.0})])
    assert [slots.tolist() for slots in together.slots] == [[0, 1], [5]]


def test_a_row_set_alike_by_two_patches_is_no_conflict(base):
    both = [patch_of(base, {1: 1.0}, {}), patch_of(base, {1: 1.0}, {})]
    assert conflicts(both).empty
    assert combine(both).values[0].tolist() == [[1.0] * WIDTH]


def test_a_conflict_is_refused_naming_the_row_and_the_patches(base):
    both = [patch_of(base, {3: 1.0}, {}, name="a.st"), patch_of(base, {3: 2.0}, {}, name="b.st")]
    with pytest.raises(ValueError, match=r"set differently: 1, .*slot 3 by a\.st and b\.st.*last, mean or sum"):
        combine(both)


def test_a_conflict_is_reported_with_how_far_apart_the_rows_are(base):
    (line,) = conflicts([patch_of(base, {3: 1.0}, {}), patch_of(base, {3: -2.0}, {})]).itertuples()
    assert (line.table, line.slot, line.patches) == (0, 3, (0, 1))
    assert line.distance == pytest.approx(3 * WIDTH**0.5)
    assert line.cosine == pytest.approx(-1)


def test_mean_and_sum_settle_a_shared_row_as_they_say(lab, base):
    both = [patch_of(base, {3: 1.0, 4: 7.0}, {}), patch_of(base, {3: 4.0}, {})]
    assert combine(both, on_conflict="mean").values[0].tolist() == [[2.5] * WIDTH, [7.0] * WIDTH]
    summed = combine(both, on_conflict="sum", lab=lab)
    start = lab.base(_named(lab)[0][0])[3]
    torch.testing.assert_close(summed.values[0][0], 5.0 - start)  # base + (1 - base) + (4 - base)
    assert summed.values[0][1].tolist() == [7.0] * WIDTH
    with pytest.raises(ValueError, match="name the lab around the base"):
        combine(both, on_conflict="sum")


def test_a_combination_says_what_it_was_made_of(base):
    one, other = patch_of(base, {1: 1.0}, {}, name="a.st"), patch_of(base, {1: 2.0}, {}, name="b.st")
    one = replace(one, about={"rule": "tfidf", "top_t": 5, "facts": ["A is B."]})
    other = replace(other, about={"rule": "tfidf", "top_t": 9, "facts": ["C is D."]})
    about = combine([one, other], on_conflict="last").about
    assert about["facts"] == ["A is B.", "C is D."]
    assert [part["name"] for part in about["combined"]] == ["a.st", "b.st"]
    assert (about["rule"], about["on_conflict"], about["rows set differently"]) == ("tfidf", "last", 1)
    assert "top_t" not in about  # they differ in it


def test_one_of_several_is_removed_and_the_rest_kept(lab, base):
    one, other, third = patch_of(base, {1: 1.0}, {}), patch_of(base, {1: 2.0, 2: 2.0}, {}), patch_of(base, {}, {9: 3.0})
    hold(lab, [one, other, third], on_conflict="last")
    assert rows(lab) == [{1: 2.0, 2: 2.0}, {9: 3.0}]
    hold(lab, [one, third])
    assert rows(lab) == [{1: 1.0}, {9: 3.0}]
    lab.reset()


def test_what_is_refused_changes_nothing(lab, base):
    good = patch_of(base, {1: 1.0}, {2: 2.0})
    hold(lab, [good])
    too_high = patch_of(base, {0: 5.0}, {ROWS: 5.0})
    narrow = Patch(good.slots, [values[:, :3] for values in good.values], base)
    backwards = Patch([slots.new_tensor([4, 3]) for slots in good.slots], [torch.ones(2, WIDTH)] * 2, base)
    for bad in (too_high, narrow, backwards, Patch(good.slots[:1], good.values[:1], base), patch_of("else", {}, {})):
        for act in (bad.apply, bad.revert, lambda lab, bad=bad: hold(lab, [good, bad], on_conflict="last")):
            with pytest.raises(ValueError, match=r"table|base|slot"):
                act(lab)
            assert rows(lab) == [{1: 1.0}, {2: 2.0}]
    lab.reset()


def test_patches_of_other_bases_do_not_go_together(base):
    with pytest.raises(ValueError, match="only patches of one base go together"):
        combine([patch_of(base, {}, {}), patch_of("another", {}, {})])
    with pytest.raises(ValueError, match="only patches of one base go together"):
        combine([patch_of(base, {}, {}), patch_of(base, {})])
    with pytest.raises(ValueError, match="name at least one"):
        combine([])


def test_a_diff_counts_what_only_one_has_and_what_both_have_alike_or_not(base):
    lines = diff(patch_of(base, {1: 1.0, 2: 2.0, 3: 3.0}, {}), patch_of(base, {2: 2.0, 3: 4.0}, {8: 1.0}))
    assert lines[["only_first", "only_second", "alike", "different"]].to_numpy().tolist() == [
        [1, 0, 1, 1],
        [0, 1, 0, 0],
    ]
    assert lines["distance"][0] == pytest.approx(WIDTH**0.5)
    assert lines["distance"].isna()[1]


def test_a_patch_is_taken_out_of_a_lab_that_was_saved_with_it(lab, base, tmp_path):
    from smft_lab.lab import load

    one, other = patch_of(base, {1: 1.0}, {}), patch_of(base, {5: 2.0}, {2: 2.0})
    hold(lab, [one, other])
    lab.save(tmp_path / "both")
    lab.reset()
    both = load(tmp_path / "both")
    one.revert(both, lab)
    other_alone = {name: tensor.clone() for name, tensor in both.model.state_dict().items()}
    other.apply(lab)
    assert all(torch.equal(tensor, other_alone[name]) for name, tensor in lab.model.state_dict().items())
    lab.reset()
    with pytest.raises(ValueError, match="1 of its 1 rows of table 0 hold something else, the first of them slot 1"):
        one.revert(both, lab)
    assert torch.equal(value_tables(both.model)[0].weight, other_alone[_named(lab)[0][0]])
