"""What panels give to somebody else: code that runs as pasted, folders, and patches that are brought to them."""

import base64
import contextlib
import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from page_policy import Scripts

import smft_lab as smft
from smft_lab.widgets import Addresses, Compare, Slots, Teach, TopT, Train
from smft_lab.widgets.sharing import facts_lines, free_name


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture(scope="module")
def folder(tiny_lab, tmp_path_factory):
    """A saved lab, so that code can open it."""
    place = tmp_path_factory.mktemp("labs") / "mine"
    tiny_lab().save(place)
    return place


@pytest.fixture
def lab(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = smft.load(folder)
    opened.probes = type(opened.probes)([])  # as measuring them takes long, and nothing here is about that
    return opened


@pytest.fixture
def probed(tiny_lab, tmp_path, monkeypatch):
    """A lab with a few probes."""
    monkeypatch.chdir(tmp_path)
    return tiny_lab()


def press(panel, do, **rest):
    """What the page sends."""
    panel._command(panel, {"do": do, **rest}, [])


def pasted(panel) -> dict:
    """The names that are left after the code of a panel has run."""
    press(panel, "show_code")
    assert panel.error == ""
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as told:
        exec(panel.code, names)
    return {**names, "told": told.getvalue()}


def rows_of(lab):
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def is_base(lab):
    return all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())


def test_the_code_of_top_t_makes_the_model_that_the_panel_made(lab, facts):
    panel = TopT(lab, facts, runner="inline")
    panel.choose(top_t=7, rule="tf", optimizer="sgd", lr=5.0, passes=2, facts=2)
    panel.teach()
    names = pasted(panel)
    assert same(rows_of(lab), rows_of(names["lab"]))
    assert Path("facts.safetensors").is_file()
    panel.close()


def test_the_code_of_teach_teaches_the_same_lessons_or_what_stands_in_the_form(lab):
    panel = Teach(lab, runner="inline")
    assert "Biscuit" in pasted(panel)["fact"].answer
    draft = panel.draft
    panel.teach(draft["statements"], draft["question"], draft["answer"], passes=2, top_t=5)
    panel.teach(["Jon's cat is Tom.", 'They call Jon\'s cat "Tom".'], "What is Jon's cat called?", "Tom", passes=1)
    assert same(rows_of(lab), rows_of(pasted(panel)["lab"]))
    panel.close()


def test_the_code_of_compare_makes_its_comparison(lab, facts):
    panel = Compare(lab, facts, methods=("sparse", "sparse:tf"), runner="inline", count=2, passes=1, evaluations=1)
    panel.start()
    again = pasted(panel)["comparison"].table
    pd.testing.assert_frame_equal(
        again[again["probe"] == "learned"].reset_index(drop=True), panel.comparison.table.reset_index(drop=True)
    )
    panel.close()


def test_the_code_of_slots_scores_what_is_shown(lab, facts):
    panel = Slots(lab, facts)
    panel.pick(1)
    shown = [row["slot"] for row in panel.ranking]
    assert pasted(panel)["scores"]["slot"].tolist()[: len(shown)] == shown
    panel.read("A text of 'no' fact")
    shown = [row["slot"] for row in panel.ranking]
    assert pasted(panel)["scores"]["slot"].tolist()[: len(shown)] == shown
    panel.close()


def test_the_code_of_addresses_and_train_runs(lab, facts):
    panel = Addresses(lab, facts)
    assert f"same={panel.tables[0]['same']}"[:10] in pasted(panel)["told"]
    panel.close()
    train = Train(runner="inline", steps=1, memory_slots=256, background_batches=2)
    names = pasted(train)
    assert names["training"].points[-1]["step"] == 1
    assert Path("mine/lab.json").is_file()
    train.close()


def test_a_lab_that_is_in_no_folder_is_the_one_of_the_notebook(probed, facts):
    panel = TopT(probed, facts, runner="inline")
    assert 'lab.save("mine")' in panel.as_code()
    assert "smft.load()" not in panel.as_code()
    panel.close()
    shipped = smft.load()
    panel = TopT(shipped, smft.new_facts(2), runner="inline")
    assert "lab = smft.load()\n" in panel.as_code()
    panel.close()


def test_facts_in_code_are_the_same_facts(lab, facts):
    own = [smft.Fact(('It\'s "so"\n\\.',), "What's so?", ("a", "b"), questions=("Or?",), two_hop=(("q", "a"),))]
    for some in (facts, own, [*facts, *own], facts[1:]):
        names = {"smft": smft, "lab": lab}
        exec("\n".join(facts_lines(lab, some)), names)
        assert list(names["facts"]) == list(some)
    assert len(facts_lines(lab, facts)) == 1


def test_an_exported_folder_holds_what_somebody_needs_to_go_on(lab, facts):
    panel = TopT(lab, facts, runner="inline")
    panel.choose(passes=2, top_t=9, facts=2)
    panel.teach()
    taught = rows_of(lab)
    press(panel, "export")
    assert panel.error == ""
    assert "Exported to export: page.html" in panel.note
    found = {file.name for file in Path("export").iterdir()}
    assert found == {"page.html", "code.py", "facts.jsonl", "table.csv", "patch.safetensors"}
    assert [fact.question for fact in smft.read_facts("export/facts.jsonl")] == [one.question for one in facts[:2]]
    assert len(pd.read_csv("export/table.csv")) == sum(len(run["points"]) for run in panel.runs)
    assert Path("export/code.py").read_text() == panel.as_code()
    lab.reset()
    smft.Patch.load("export/patch.safetensors").apply(lab)
    assert same(taught, rows_of(lab))
    page = Scripts(Path("export/page.html").read_text())
    assert page.scripts == []
    assert "script-src 'none'" in page.policy
    panel.close()


def test_nothing_that_is_there_is_written_over(lab, facts):
    panel = TopT(lab, facts[:1], runner="inline")
    panel.choose(passes=1)
    panel.teach()
    for name in ("save", "save", "export", "export"):
        press(panel, name)
        assert panel.error == ""
    one, two = map(smft.Patch.load, ("patch.safetensors", "patch-2.safetensors"))
    assert all(map(torch.equal, one.values, two.values))
    assert {path.name for path in Path().iterdir() if path.name.startswith(".")} == set()
    assert Path("export-2/page.html").is_file()
    with pytest.raises(ValueError, match="is there already"):
        panel.export("export")
    press(panel, "export", path="../elsewhere")
    assert "may not choose one" in panel.error
    assert free_name("patch.safetensors") == Path("patch-3.safetensors")
    panel.close()


def test_texts_of_facts_are_texts_on_an_exported_page(lab):
    nasty = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    panel = Slots(lab, text=nasty)
    panel.export()
    assert not {"script", "onerror"} & Scripts(Path("export/page.html").read_text()).tags
    panel.close()


def test_every_panel_can_be_exported(lab, facts):
    compare = Compare(lab, facts, methods=("sparse",), runner="inline", count=1, passes=1, evaluations=1)
    compare.export("before")
    compare.start()
    compare.export("after")
    assert json.loads(Path("after/comparison/summary.json").read_text())["settings"]["n_facts"] == 1
    teach = Teach(lab, runner="inline")
    teach.export("form")
    teach.teach(["Jon's cat is Tom."], "What is Jon's cat called?", "Tom", passes=1)
    teach.export("lesson")
    train = Train(runner="inline", steps=1, memory_slots=256)
    train.export("train")
    Addresses(lab, facts).export("addresses")
    found = {folder.name: {file.name for file in folder.iterdir()} for folder in Path().iterdir()}
    every = {"page.html", "code.py"}
    assert all(every <= names for names in found.values())
    assert {"patch.safetensors", "facts.jsonl", "table.csv"} <= found["lesson"]
    for panel in (compare, teach, train):
        panel.close()


def bring(panel, patch: Path, name="brought.safetensors"):
    """A file that is dropped on the panel."""
    press(panel, "take_patch", name=name, data=base64.b64encode(patch.read_bytes()).decode())


@pytest.fixture
def patch(probed, facts):
    """A patch of one fact, and the model that it makes."""
    run = smft.run(probed, facts[:1], passes=2, top_t=9, probe_every=0)
    run.patch.save("one.safetensors")
    taught = rows_of(probed)
    probed.reset()
    return Path("one.safetensors"), taught


@pytest.mark.parametrize("kind", [TopT, Slots, Teach, Addresses])
def test_a_patch_that_is_dropped_is_in_the_model_and_has_a_card(probed, facts, patch, kind):
    file, taught = patch
    panel = Teach(probed, runner="inline") if kind is Teach else kind(probed, facts)
    bring(panel, file)
    assert panel.error == ""
    assert same(taught, rows_of(probed))
    card = panel.card
    assert (card["name"], card["taught"], card["rows"]) == (
        "brought.safetensors",
        [facts[0].statements[0]],
        len(smft.Patch.load(file)),
    )
    assert card["made"]["top_t"] == 9
    probes = {probe.name for probe in probed.probes}
    assert len(card["cost"]) == len(probes)
    now = probed.probes.measure(probed.model, probed.tokenizer)
    assert {one["now"] for one in card["cost"]} == {now[name]["nll" if "nll" in now[name] else "em"] for name in probes}
    assert 0 <= card["background"] <= 1
    assert all(0 < part <= 1 for _, part in card["readers"])
    panel.close()


def test_what_a_patch_changes_is_no_cost_of_it_and_nothing_that_was_forgotten(probed, facts):
    old = probed.probes["old_facts"]
    edit = smft.Fact("It is elsewhere now.", old.questions[0], "Elsewhere")
    smft.run(probed, [edit], passes=1, top_t=9, probe_every=0, rephrase=False).patch.save("edit.safetensors")
    probed.reset()
    panel = Teach(probed, runner="inline")
    bring(panel, Path("edit.safetensors"))
    assert panel.error == ""
    for probe in (panel._stays["old_facts"], panel._kept.probe):
        assert probe == old.without([edit]) != old
    left = probed.probes.without([edit]).measure(probed.model, probed.tokenizer)["old_facts"]["em"]
    assert next(one["now"] for one in panel.card["cost"] if one["metric"] == "em") == left
    panel.close()


def test_the_slots_panel_describes_slots_of_a_patch_that_was_opened_in_it(probed, facts, patch):
    panel = Slots(probed, facts)
    panel.open_patch(patch[0])
    assert panel.card is not None
    panel.describe(panel.ranking[0]["slot"])
    assert panel.slot is not None
    assert panel.slot["rank"] == 1
    probed.reset()
    panel.close()


def test_the_base_comes_back_and_lessons_come_on_top_of_a_patch_and_are_undone_to_it(probed, facts, patch):
    file, taught = patch
    panel = Teach(probed, runner="inline")
    panel.open_patch(file)
    panel.teach(["Jon's cat is Tom."], "What is Jon's cat called?", "Tom", passes=1)
    assert not same(taught, rows_of(probed))
    panel.undo()
    assert same(taught, rows_of(probed))
    panel.reset()
    assert is_base(probed)
    assert panel.card is None
    panel.close()
    other = TopT(probed, facts, runner="inline")
    other.choose(passes=1)
    other.teach()
    mine = rows_of(probed)
    other.open_patch(file)
    other.ask(facts[0].question)
    assert same(taught, rows_of(probed))
    other.undo()  # the patch goes, the run stays
    assert same(mine, rows_of(probed))
    assert len(other.runs) == 1
    other.close()


def test_what_is_no_patch_of_this_base_is_told_and_changes_nothing(probed, facts, patch, tiny_lab):
    file, _ = patch
    panel = TopT(probed, facts, runner="inline")
    panel.choose(passes=1)
    panel.teach()
    mine = rows_of(probed)
    Path("bad.safetensors").write_bytes(file.read_bytes()[:-3])
    bring(panel, Path("bad.safetensors"), "bad.safetensors")
    assert panel.error.startswith("bad.safetensors is")
    other = tiny_lab(memory_key_dim=8)
    smft.run(other, facts[:1], passes=1, probe_every=0).patch.save("other.safetensors")
    bring(panel, Path("other.safetensors"))
    assert "was made on base" in panel.error
    assert same(mine, rows_of(probed))
    assert panel.card is None
    panel.close()


def test_a_patch_waits_for_another_panel_that_trains(probed, facts, patch):
    trains, panel = TopT(probed, facts, runner="tick"), Slots(probed, facts)
    trains.teach()
    bring(panel, patch[0])
    assert "another panel" in panel.error
    trains.reset()
    trains.close()
    panel.close()


def test_panels_without_a_model_of_their_own_take_no_patch(probed, facts, patch):
    panel = Compare(probed, facts, runner="inline", passes=1, evaluations=1)
    bring(panel, patch[0])
    assert "doesn't know" in panel.error
    with pytest.raises(ValueError, match="open it in TopT"):
        panel.open_patch(patch[0])
    panel.close()
