"""The page without a kernel: what is run for it, what is kept of a stop, and what stands in the file."""

import json
import re
from random import Random

import pytest
import torch
from page_policy import Scripts, allowed
from test_attach import small
from test_retrofit import KNOWN, RECIPE
from typer.testing import CliRunner

import smft_lab as smft
from smft_lab.cli.app import app
from smft_lab.experiments.retrofit import Retrofit
from smft_lab.facts.fact import Fact
from smft_lab.widgets import Teach, TopT, shared_runs
from smft_lab.widgets.shared_page import Plan, page, places

FEW = {"rules": ("tfidf", "random"), "top_t": (3, 20), "seeds": 1, "passes": 2}


@pytest.fixture(scope="module")
def lab(tiny_lab):
    return tiny_lab()


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture(scope="module")
def made(lab, facts, tmp_path_factory):
    return page(lab, facts, tmp_path_factory.mktemp("page") / "page.html", **FEW)


def data_of(path) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def ends(run, at):
    return [run["points"][at][0], *run["points"][-1][1:]]


def test_every_t_rule_and_seed_is_the_run_that_finetune_makes(lab, facts, made):
    runs = data_of(made)["runs"]
    assert [len(runs["sparse"][rule][0]) for rule in FEW["rules"]] == [2, 2]
    assert [len(runs[method]) for method in ("full", "lora")] == [1, 1]
    for rule, t in (("tfidf", 3), ("random", 20)):
        lab.reset()
        run = smft.run(lab, facts, top_t=t, rule=rule, passes=2, probe_every=0)
        shown = runs["sparse"][rule][0][FEW["top_t"].index(t)]
        assert (shown["rows"], shown["steps"]) == (len(run.patch), 6)
        assert shown["loss"] == pytest.approx(run.losses[-1], rel=1e-4)
    lab.reset()


def test_a_page_has_methods_beyond_the_standard_ones(lab, facts, tmp_path):
    methods = ("sparse", "osf", "replay")
    options = {**FEW, "rules": ("tfidf",), "top_t": (3,), "passes": 1}
    data = data_of(page(lab, facts, tmp_path / "page.html", methods=methods, **options))
    assert {method["key"] for method in data["methods"]} == set(methods)
    assert len({method["light"] for method in data["methods"]}) == len(methods)
    assert all(len(data["runs"][method]) == 1 for method in methods)


def test_the_base_is_left_behind(lab, facts, made):
    assert all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())


def test_it_is_one_small_file_that_may_run_its_own_script_alone_and_ask_nothing_of_the_network(made):
    text = made.read_text()
    assert len(text) < 10_000_000
    assert allowed(Scripts(text))
    assert not re.search(
        r'<(?:link|img|iframe|object|form)|(?:src|href|action)="(?!#)|url\(|@import|fetch\(|XMLHttp', text
    )


def test_no_text_of_a_fact_becomes_a_part_of_the_page(lab, tmp_path):
    nasty = "</script><img src=x onerror=alert(1)>"
    facts = [Fact((f"Mira's dog is called {nasty}.",), f"What is {nasty}?", (f"{nasty}",)), *smft.new_facts(1)]
    path = page(lab, facts, tmp_path / "page.html", **{**FEW, "rephrase": False})
    tags = Scripts(path.read_text())
    assert not {"img", "onerror"} & tags.tags
    assert len(tags.scripts) == 1
    assert data_of(path)["asked"]["questions"][0] == f"What is {nasty}?"


def test_a_stop_keeps_the_runs_that_had_ended_and_the_same_call_goes_on(lab, facts, tmp_path, monkeypatch):
    path, ran = tmp_path / "page.html", []
    run = shared_runs.Runner.run

    def stopped(self, one):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(one)
        return run(self, one)

    monkeypatch.setattr(shared_runs.Runner, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        page(lab, facts, path, **FEW)
    assert not path.exists()
    assert len(list((tmp_path / "page.runs").iterdir())) == 3
    assert Plan(lab, facts, **{**FEW, "seeds": (0,)}).stored(path) == 3
    assert all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())
    monkeypatch.setattr(shared_runs.Runner, "run", lambda self, one: ran.append(one) or run(self, one))
    page(lab, facts, path, **FEW)
    assert len(ran) == len(set(ran)) == 6


def test_a_kept_run_is_of_no_other_settings_facts_or_base(lab, facts, tiny_lab):
    plan = Plan(lab, facts, **{**FEW, "seeds": (0,)})
    keys = {plan.course.key(lab, run) for run in plan.runs}
    assert len(keys) == len(plan.runs)
    run = plan.runs[-1]
    for other in ({"passes": 3}, {"lr": 0.5}, {"evaluations": 1}):
        again = Plan(lab, facts, **{**FEW, "seeds": (0,), **other})
        assert again.course.key(lab, run) not in keys
    assert Plan(lab, facts[:2], **{**FEW, "seeds": (0,)}).course.key(lab, run) not in keys
    every = lab.probes
    lab.probes = type(every)([probe for probe in every if probe.name != "old_facts"])
    assert Plan(lab, facts, **{**FEW, "seeds": (0,)}).course.key(lab, run) not in keys
    lab.probes = every
    assert plan.course.key(tiny_lab(memory_key_dim=8), run) not in keys


BY_HAND = [
    {"points": []},
    {"points": [[0, 0.5, 1.5]]},
    {"points": [[0, float("nan"), None]]},
    {"points": [["0", 0.5, None]]},
    {"points": [[0, 0.5]]},
    {"answers": []},
    {"answers": [1] * 15},
    {"answers": None},
    {"run": {"method": "full", "seed": 0, "rule": "", "top_t": 0}},
    {"steps": 1.5},
    {"seconds": -1},
    {"rows": "many"},
    {"loss": "low"},
]


def test_a_run_that_was_damaged_or_changed_by_hand_is_run_again(lab, facts, made):
    plan, folder = Plan(lab, facts, **{**FEW, "seeds": (0,)}), made.with_suffix(".runs")
    run = plan.runs[-1]
    file = folder / f"{plan.course.key(lab, run)}.json"
    whole = json.loads(file.read_text())
    assert shared_runs.kept_run(folder, plan.course, lab, run) == whole
    others = [{**whole, **changed} for changed in BY_HAND]
    others += [{name: value for name, value in whole.items() if name != lost} for lost in whole]
    for text in ["{", "[" * 100_000, *map(json.dumps, others)]:
        file.write_text(text)
        assert shared_runs.kept_run(folder, plan.course, lab, run) is None, text[:200]
    assert plan.stored(made) == len(plan.runs) - 1
    page(lab, facts, made, force=True, **FEW)
    assert json.loads(file.read_text())["points"] == whole["points"]


def test_where_runs_are_to_be_kept_is_asked_before_any(lab, facts, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_runs.Runner, "run", lambda *_: pytest.fail("it computed"))
    (tmp_path / "page.runs").write_text("mine")
    with pytest.raises(ValueError, match=r"page\.runs is a file; name a folder"):
        page(lab, facts, tmp_path / "page.html", **FEW)


def test_a_page_is_not_replaced_unasked_and_nothing_is_computed_for_it(lab, facts, made, monkeypatch):
    was = made.read_bytes()
    monkeypatch.setattr(shared_runs.Runner, "run", lambda *_: pytest.fail("it computed"))
    with pytest.raises(ValueError, match="is there already"):
        page(lab, facts, made, **FEW)
    assert made.read_bytes() == was


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ("sparse", "best")}, "no method 'best'"),
        ({"rules": ("best",)}, "no rule 'best'"),
        ({"top_t": (0, 3)}, "top-t must be between 1 and the 256 slots"),
        ({"seeds": 0}, "seeds must be at least 1, not 0"),
        ({"top_t": ()}, "at least one method, one rule, one t and one seed"),
        ({"passes": 0}, "passes must be at least 1"),
    ],
)
def test_options_that_make_no_page_are_refused_before_any_run(lab, facts, tmp_path, monkeypatch, options, said):
    monkeypatch.setattr(shared_runs.Runner, "run", lambda *_: pytest.fail("it computed"))
    with pytest.raises(ValueError, match=re.escape(said)):
        page(lab, facts, tmp_path / "page.html", **{**FEW, **options})


def test_a_page_is_named_as_one(lab, facts, tmp_path):
    with pytest.raises(ValueError, match=r"let its name end in \.html"):
        page(lab, facts, tmp_path / "page.pdf", **FEW)


@pytest.mark.parametrize(("most", "usual"), [(3000, 500), (40, 500), (1, 1), (2, 100)])
def test_the_sliders_places_go_from_one_to_all_slots_that_a_fact_reads_and_hold_the_usual_t(most, usual):
    grid = places(most, usual)
    assert (grid[0], grid[-1]) == (1, most)
    assert grid == sorted(set(grid))
    assert usual in grid or usual > most
    assert len(grid) >= 20 or most < 200


def test_the_answers_are_judged_as_the_probes_judge_them(lab, facts, made):
    shown = data_of(made)
    base, asked = shown["base"], shown["asked"]
    assert len(base["right"]) == len(asked["questions"]) == asked["facts"] + min(12, shown["kept"]["count"])
    said = lab.answer(asked["questions"])
    assert [shown["texts"][place] for place in base["answers"]] == said
    probe = next(probe for probe in lab.probes if probe.name == "old_facts")
    kept = base["points"][0][2]
    if shown["kept"]["count"] <= 12:
        assert base["right"][asked["facts"] :].count("1") / shown["kept"]["count"] == pytest.approx(kept)
    assert probe.size == shown["kept"]["count"]


def test_a_panel_makes_the_page_of_what_stands_in_its_fields(lab, facts, tmp_path):
    panel = TopT(lab, facts, runner="inline")
    panel.choose(passes=1, facts=2, rule="tf", lr=0.01)
    panel.teach()
    path = panel.to_html(tmp_path / "page.html", top_t=(3, 20))
    shown = data_of(path)
    assert (shown["rules"], shown["asked"]["facts"], shown["seeds"]) == (["tf"], 2, [0])
    assert shown["runs"]["sparse"]["tf"][0][0]["steps"] == 2
    assert all(torch.equal(tensor, lab.base(name)) for name, tensor in lab.model.state_dict().items())
    assert panel.error == ""
    other = TopT(lab, facts, runner="tick")
    other.teach()
    with pytest.raises(ValueError, match="another panel"):
        panel.to_html(tmp_path / "other.html")
    other.reset()
    other.close()
    panel.close()


def test_the_command_makes_the_page_of_a_persons_own_facts_and_lab(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab.save("mine")
    lines = [
        {
            "statements": [f"{name}'s dog is called {dog}."],
            "question": f"What is {name}'s dog called?",
            "answers": [dog],
        }
        for name, dog in (("Mira", "Biscuit"), ("Jon", "Rex"))
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ["page", "--lab", "mine", "--facts", "mine.jsonl", "--rules", "tfidf", "--top-t", "2,9", "--seeds", "1"]
    command += ["--passes", "1", "--workers", "1", "--title", "Dogs & <b>names</b>"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    text = (tmp_path / "results/page.html").read_text()
    assert text.count("Dogs &amp; &lt;b&gt;names") == 2
    assert "<b>names" not in text
    assert data_of(tmp_path / "results/page.html")["asked"]["questions"][:2] == [line["question"] for line in lines]
    again = CliRunner().invoke(app, command)
    assert "is there already" in str(again.exception)
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--top-t", "1,many"), "whole numbers, as in 2,5; not 'many'"),
        (("--kind", "alpaca"), "--kind says what the file of --facts is"),
        (("--methods", "sparse,sparse"), "names one twice"),
        (("--teach", "--top-t", "3"), "--teach makes a page whose visitors say what is taught"),
    ],
)
def test_bad_options_of_the_command_are_told_before_a_lab_is_opened(option, said):
    assert said in str(CliRunner().invoke(app, ["page", *option]).exception)


def test_the_command_makes_the_page_that_holds_the_model(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab.save("mine")
    assert CliRunner().invoke(app, ["page", "--teach", "--lab", "mine", "--out", "teach.html"]).exit_code == 0
    assert data_of(tmp_path / "teach.html")["model"]["memory"]["slots"] == lab.slots
    panel = Teach(lab, runner="inline")
    panel.teach(["Jon's cat is Tom."], "What is Jon's cat called?", "Tom", passes=1)
    panel.to_html("panel.html")
    assert data_of(tmp_path / "panel.html")["weights"] == data_of(tmp_path / "teach.html")["weights"]
    with pytest.raises(ValueError, match="is there already"):
        panel.to_html("panel.html")
    panel.close()


def test_workers_give_the_same_runs(tmp_path, facts, lab):
    lab.save(tmp_path / "mine")
    lab, runs = smft.load(tmp_path / "mine"), []
    for workers, name in ((1, "one"), (2, "two")):
        plan = Plan(lab, facts[:2], methods=("sparse",), rules=("tfidf",), top_t=(3, 20), seeds=(0,), passes=1)
        assert list(plan.compute(tmp_path / f"{name}.html", workers, (tmp_path / "mine", "cpu")))[-1] == 2
        runs.append({run: (found["points"], found["rows"], found["answers"]) for run, found in plan.results.items()})
    assert runs[0] == runs[1]


@pytest.fixture(scope="module")
def finished(tokenizer, corpus):
    """A small finished model with a memory, as `smft-lab attach` makes it."""
    words = " ".join(corpus.texts(Random(0), 300))
    given = {"text": words, "questions": KNOWN, "known": KNOWN, "facts": smft.new_facts(4)}
    done = Retrofit(small("llama"), tokenizer, RECIPE, [1], **given)
    list(done)
    return done.lab


def test_a_lab_of_a_finished_model_has_a_page_of_the_recipe_s_own_way(finished, facts, tmp_path):
    path = page(finished, facts, tmp_path / "page.html", top_t=(3, 20), seeds=1)
    shown = data_of(path)
    assert shown["rules"] == ["tfidf"]
    assert shown["grouped"]
    for t, run in zip(shown["t"], shown["runs"]["sparse"]["tfidf"][0], strict=True):
        finished.reset()
        assert run["rows"] == len(smft.run(finished, facts, top_t=t, probe_every=0).patch)
    assert {rank for strip in shown["strips"] for token in strip["tokens"] for rank in token["ranks"]["tfidf"]} - {0}
    finished.reset()


def test_the_code_of_a_lesson_for_a_finished_model_teaches_it_by_the_same_recipe(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = Teach(finished, runner="inline")
    draft = panel.draft
    panel.teach(draft["statements"], draft["question"], draft["answer"], wordings=draft["wordings"])
    taught = {name: tensor.clone() for name, tensor in finished.model.state_dict().items()}
    finished.reset()
    exec(panel.as_code(), {"lab": finished})
    assert all(torch.equal(tensor, taught[name]) for name, tensor in finished.model.state_dict().items())
    panel.reset()
    panel.close()
