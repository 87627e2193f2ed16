"""The slots panel, driven as the browser drives it, and the reads behind it."""

import math
import warnings

import numpy as np
import pytest
import torch

import smft_lab as smft
from smft_lab.facts.world.grammar import answered
from smft_lab.model.tokenizer import encode
from smft_lab.slots.reading import core_set, token_reads
from smft_lab.slots.usage import batch_counts
from smft_lab.widgets import Slots, TopT
from smft_lab.widgets.drawn_table import MOST, cell_of, in_cells, side_of


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture
def panel(lab, facts):
    lab.reset()
    made = Slots(lab, facts)
    yield made
    made.close()


def press(panel, name, **rest):
    """What the page sends."""
    panel._command(panel, {"do": name, **rest}, [])


def heat(panel):
    return np.frombuffer(panel.heat, "float32")


def test_the_reads_of_tokens_add_up_to_the_counts_of_the_text(lab):
    text = "Everyone here knows that Ilon plays the harp."
    reads = token_reads(lab, text)
    assert "".join(reads.tokens).strip() == text
    for table, count in enumerate(batch_counts(lab.model, encode(lab.tokenizer, [text]))):
        assert torch.equal(torch.bincount(reads.slots[table].flatten(), minlength=lab.slots), count.long())


def test_the_core_set_is_what_every_paraphrase_and_the_question_read(lab, facts):
    texts = [*facts[0].statements, answered(facts[0].question, facts[0].answer)]
    for table, core in enumerate(core_set(lab, facts[0])):
        each = [batch_counts(lab.model, encode(lab.tokenizer, [text]))[table] > 0 for text in texts]
        assert torch.equal(core, torch.stack(each).all(0).nonzero().squeeze(1))


def test_the_ranking_is_that_of_slot_scores(lab, facts, panel):
    press(panel, "pick", fact=1)
    expected = smft.slot_scores(lab, facts[1])
    expected = expected[expected["table"] == 0].head(20)
    shown = panel.ranking
    assert [row["slot"] for row in shown] == list(expected["slot"])
    for name in ("count", "tf", "df", "idf", "tfidf"):
        np.testing.assert_allclose([row[name] for row in shown], expected[name])


@pytest.mark.parametrize("view", ["count", "df", "tfidf", "change", "core"])
def test_every_view_is_drawn_and_its_tokens_carry_the_values_of_their_slots(panel, view):
    press(panel, "look", view=view)
    assert panel.error == ""
    for token in panel.tokens:
        np.testing.assert_allclose(heat(panel)[token["slots"]], token["values"], rtol=1e-6)


def test_background_df_and_reads_are_those_of_the_lab(lab, panel):
    press(panel, "look", view="df")
    np.testing.assert_array_equal(heat(panel), lab.usage.df[0].numpy())
    press(panel, "look", view="count")
    reads = lab.model.config.memory_heads * lab.model.config.memory_k
    tokens = sum(int(encode(lab.tokenizer, [s])["attention_mask"].sum()) for s in panel.facts[0].statements)
    assert heat(panel).sum() == tokens * reads


def test_the_core_view_tells_slots_in_the_top_t_from_those_outside(lab, panel):
    size = panel.core["size"]
    assert size > 0
    press(panel, "look", view="core", top_t=lab.slots)
    assert (heat(panel) == 2).sum() == size == panel.core["covered"]
    press(panel, "look", top_t=1)
    assert (heat(panel) == 1).sum() == size - panel.core["covered"]


def test_another_panels_finetune_shows_as_change_and_its_reset_takes_it_back(lab, facts, panel):
    press(panel, "look", view="change")
    assert heat(panel).max() == 0
    trainer = TopT(lab, facts, runner="inline")
    press(trainer, "commit", settings={"top_t": 20, "passes": 2})
    changed = set(np.flatnonzero(heat(panel)))
    assert changed == set(trainer._paths[-1].patch.slots[0].tolist())
    slot = changed.pop()
    press(panel, "describe", slot=int(slot))
    assert panel.slot["moved"] == pytest.approx(heat(panel)[slot], rel=1e-5)
    press(trainer, "reset")
    assert heat(panel).max() == 0
    trainer.close()


def test_a_card_tells_who_reads_the_slot(lab, facts, panel):
    top = panel.ranking[0]["slot"]
    press(panel, "describe", slot=top)
    card = panel.slot
    assert card["rank"] == 1
    own = batch_counts(lab.model, encode(lab.tokenizer, list(facts[0].statements)))[0][top]
    assert [facts[0].question, int(own)] in card["facts"]
    assert card["norms"][0] == pytest.approx(smft.value_tables(lab.model)[0].weight[top].norm().item())


@pytest.mark.parametrize(
    ("command", "rest", "problem"),
    [
        ("read", {"text": "  "}, "type a text first"),
        ("read", {"text": "word " * 3000}, "tokens long, and the model reads"),
        ("pick", {"fact": 9}, "facts 0 to 2, not 9"),
        ("describe", {"slot": -1}, "not -1"),
        ("look", {"top_t": 0}, "top-t must be between"),
        ("look", {"view": "smell"}, "no view 'smell'"),
    ],
)
def test_what_cannot_be_shown_says_so_and_keeps_what_was_there(panel, command, rest, problem):
    before = (panel.settings, panel.subject, panel.heat)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tokenizer's own remark on long texts
        press(panel, command, **rest)
    assert problem in panel.error
    assert (panel.settings, panel.subject, panel.heat) == before


def test_a_typed_text_has_no_core_set(panel):
    press(panel, "look", view="core")
    press(panel, "read", text="Nobody knows.")
    assert panel.core is None
    assert panel.settings["view"] == "tfidf"
    press(panel, "look", view="core")
    assert "pick one first" in panel.error
    assert panel.settings["view"] == "tfidf"


def test_a_large_table_is_drawn_in_fewer_cells_and_loses_no_read():
    slots = 512**2
    assert side_of(slots) == MOST
    values = torch.rand(slots, dtype=torch.double)
    cells = in_cells(values, "sum")
    assert cells.sum().item() == pytest.approx(values.sum().item())
    keys = math.isqrt(slots)
    block = values.view(keys, keys)[2:4, 4:6]
    cell = cell_of(torch.tensor(2 * keys + 4), slots)
    assert cells[cell].item() == pytest.approx(block.sum().item())
    assert in_cells(values, "amax")[cell].item() == block.max().item()


def test_a_panel_without_facts_needs_a_text(lab):
    with pytest.raises(ValueError, match="give a text, or facts"):
        Slots(lab)


def test_a_panel_shows_the_base_again_when_a_cell_resets_the_lab(tiny_lab, monkeypatch):
    lab, measured = tiny_lab(), []
    panels = [smft.widgets.Slots(lab, smft.new_facts(2)), smft.widgets.Addresses(lab, smft.new_facts(2))]
    monkeypatch.setattr(panels[1], "measure", lambda: measured.append(True))
    panels[0].look(view="change")
    before = panels[0].heat
    with torch.no_grad():
        smft.value_tables(lab.model)[0].weight.add_(1.0)
    panels[0].look(view="change")
    assert panels[0].heat != before
    lab.reset()
    assert panels[0].heat == before
    assert measured == [True]
    for panel in panels:
        panel.close()
    assert not lab.watchers
