"""What a person sees of a lab made from a finished model: its probes, its recipe, its panels."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from test_attach import small

import smft_lab as smft
from smft_lab.charts import figures, style
from smft_lab.charts.figures import curves, plane
from smft_lab.charts.report import is_right, page
from smft_lab.charts.sentences import headline
from smft_lab.cli import compare as compare_command
from smft_lab.experiments.bench import METHODS, runs_to_target
from smft_lab.experiments.compare import Comparison
from smft_lab.experiments.retrofit import Retrofit
from smft_lab.facts.fact import Fact
from smft_lab.facts.own_facts import own_fact
from smft_lab.facts.public.datasets import Question
from smft_lab.facts.questions import question_paraphrases
from smft_lab.finetuning.methods import Full, Sparse
from smft_lab.finetuning.teaching import Teaching, counted_reads
from smft_lab.probes.choices import ChoiceProbe
from smft_lab.probes.probes import LEARNED, Probes, QuestionProbe
from smft_lab.probes.prompts import NEUTRAL_SHOTS, PLAIN
from smft_lab.probes.replies import replies
from smft_lab.probes.text import begins_with
from smft_lab.recipe import RETROFIT
from smft_lab.slots.addresses import measure_addresses, measure_loudness
from smft_lab.slots.reading import PART, core_set, token_reads
from smft_lab.widgets import Addresses, Compare, Slots, Teach, TopT
from smft_lab.widgets.addresses import memory_blocks
from smft_lab.widgets.kept import FEW, KeptQuestions
from smft_lab.widgets.teach import UNTAUGHT, WORDINGS

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
    statements=1,
    questions=2,
    contexts=1,
    batch_size=4,
    passes=2,
    least_steps=1,
)
ASKED = [f"What is {n} and {n}?" for n in range(FEW + 40)]
CHOICES = ChoiceProbe("hellaswag", ("He", "She"), ((" runs", " sits"), (" sings", " sleeps")), (0, 1))


@pytest.fixture(scope="module")
def base_lab(tokenizer, corpus):
    """A lab of a small random model that is asked plainly, and what its base says counts as known."""
    words = " ".join(corpus.texts(Random(0), 300))
    questions = [Question(asked, (str(number),)) for number, asked in enumerate(ASKED)]
    work = Retrofit(
        small("llama"),
        tokenizer,
        RECIPE,
        [1],
        text=words,
        questions=questions,
        known=questions,
        facts=smft.new_facts(4),
        probes=[CHOICES],
    )
    list(work)
    lab = work.lab
    said = replies(lab.model, tokenizer, ASKED, 16, PLAIN)
    longer = lab.answer(ASKED, form=PLAIN)
    # Its gibberish is not always what normalising leaves alone.
    pairs = [(asked, text, text.split()[0]) for asked, text in zip(ASKED, said, strict=True) if text.strip()]
    pairs = [pair for pair in pairs if begins_with(longer[ASKED.index(pair[0])], [pair[2]])]
    asked, said, answers = zip(*pairs, strict=True)
    assert len(asked) > FEW
    known = QuestionProbe("known", asked, tuple((one,) for one in answers), (), PLAIN, "prefix", said)
    lab.probes = Probes([known, *lab.probes])
    return lab


@pytest.fixture
def lab(base_lab):
    base_lab.reset()
    return base_lab


@pytest.fixture(scope="module")
def facts():
    return smft.new_facts(3, seed=3)


@pytest.fixture(scope="module")
def comparison(base_lab, facts):
    made = Comparison(base_lab, facts, ("sparse", "full"), evaluations=2, seeds=[0])
    list(made.steps())
    return made


def press(panel, name, **rest):
    """What the page sends."""
    panel._command(panel, {"do": name, **rest}, [])


def weights(lab):
    return {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# Charts and the report


def test_every_way_to_ask_what_was_taught_is_called_learned_and_nothing_else_is():
    pairs = [(name, "em") for name in ("known", *LEARNED, "old_facts")] + [("text", "nll"), ("learned", "f1")]
    shown = style.probes_in(pairs)
    assert [probe.key for probe in shown] == [*LEARNED, "old_facts", "known", "text"]
    assert {probe.key for probe in shown if probe.is_learned} == set(LEARNED)
    assert all(probe.better == ("lower is better" if probe.key == "text" else "higher is better") for probe in shown)
    assert shown[0].title == "Learned: unseen wording"
    assert style.probes_in([("learned", "em"), ("prose", "nll")])[0].title == "New facts learned"


def test_a_probe_of_ones_own_comes_last_under_its_own_name_and_unit():
    shown = style.probes_in([("my_quiz", "acc_norm"), ("my_quiz", "acc"), ("learned", "em"), ("old_poems", "nll")])
    assert [(probe.title, probe.unit) for probe in shown[1:]] == [
        ("My quiz, by length", "right (%)"),
        ("My quiz", "right (%)"),
        ("Old poems", "loss (nats per token)"),
    ]


def test_forgetting_is_told_by_known_facts_where_there_are_no_old_ones():
    assert style.kept_of(["learned", "known", "text"]).title == "Known facts kept"
    assert style.kept_of(["known", "old_facts"]).title == "Old facts kept"


def test_the_plane_of_such_a_lab_has_what_was_known_as_its_axis(comparison):
    table = comparison.finished_runs()
    figure = plane(table, comparison.summary())
    assert "Known facts kept" in figure.layout.yaxis.title.text
    path = next(trace for trace in figure.data if (trace.meta or {}).get("role") == "path")
    mine = table[(table["method"] == "sparse") & (table["metric"] == "em")]
    assert list(path.y) == pytest.approx(mine[mine["probe"] == "known"]["value"].tolist())
    assert list(path.x) == pytest.approx(mine[mine["probe"] == "learned"]["value"].tolist())


def test_the_curves_put_the_ways_of_asking_into_a_row_of_their_own(comparison):
    figure = curves(comparison.finished_runs())
    heights = {a.text.partition("</b>")[0].removeprefix("<b>"): a.yref for a in figure.layout.annotations}
    tops = {title: figure.layout[ref.split(" ")[0].replace("y", "yaxis")].domain[1] for title, ref in heights.items()}
    learned = {top for title, top in tops.items() if title.startswith("Learned")}
    stays = {top for title, top in tops.items() if not title.startswith("Learned")}
    assert len(learned) == 1
    assert max(stays) < min(learned)
    assert {"Known facts kept", "Ordinary text", "HellaSwag", "HellaSwag, by length"} <= set(tops)
    dotted = [shape.yref.split(" ")[0] for shape in figure.layout.shapes]
    assert not set(dotted) & {ref.split(" ")[0] for title, ref in heights.items() if title.startswith("Learned")}


def test_the_report_shows_what_was_learned_apart_and_calls_none_of_it_a_loss(comparison, monkeypatch):
    monkeypatch.setattr(style, "LITTLE", 0)
    text = page(comparison.finished_runs(), comparison.summary(), comparison.samples)
    learned, stays = text.split("<h3>What was learned</h3>")[1].split("<h3>What should have stayed</h3>")[:2]
    for title in ("Learned: unseen wording", "Learned: taught wording", "Learned: unseen prefix"):
        assert title in learned
        assert title not in stays.split("</table>")[0]
    assert "worse" not in learned
    assert "unchanged" not in learned
    assert "Known facts kept" in stays.split("</table>")[0]
    assert "HellaSwag" in stays.split("</table>")[0]
    assert "known-fact recall" in headline(comparison.summary())
    assert "old-fact" not in text.split("<script")[0]


def test_a_reply_about_a_known_fact_is_right_if_it_begins_with_the_answer(comparison):
    known = [sample for sample in comparison.samples if sample["probe"] == "known"]
    assert known
    assert all(is_right(sample["base"], sample["answer"], sample["accepted"], sample["match"]) for sample in known)
    assert is_right("Paris, the capital of France", "Paris", ["Paris"], "prefix")
    assert not is_right("Paris, the capital of France", "Paris")
    assert is_right("The trumpet", "trumpet", ["trumpet"])  # as exact match counts it
    assert {sample["match"] for sample in comparison.samples if sample["probe"] != "known"} == {"exact"}


def test_samples_are_asked_in_the_form_of_their_probe(lab, comparison):
    sample = next(one for one in comparison.samples if one["probe"] == "prefixed")
    probe = next(one for one in comparison._probes if one.name == "prefixed")
    assert sample["base"] == lab.answer([sample["question"]], form=probe.form)[0]


def test_the_printed_summary_tells_learned_from_kept_by_name(comparison, monkeypatch):
    console = Console(width=200, record=True)
    monkeypatch.setattr(compare_command, "console", console)
    compare_command._print_summary(comparison)
    learned, kept = console.export_text().split("what was kept")
    for head in ("Unseen wording", "Taught wording", "Unseen prefix"):
        assert head in learned
        assert head not in kept
    for head in ("Known facts", "Text, nats", "HellaSwag, by length", "base"):
        assert head in kept


# The panels


def test_the_compare_panel_shows_every_probe_of_the_lab_and_what_was_known_as_the_axis(lab, facts, monkeypatch):
    monkeypatch.setattr(style, "LITTLE", 0)  # these models learn nothing
    panel = Compare(lab, facts, ("sparse", "full"), runner="inline", passes=1, evaluations=1)
    press(panel, "start")
    assert panel.error == ""
    names = [measure["name"] for measure in panel.limits["measures"]]
    assert {"learned", "taught", "prefixed", "known", "text", "hellaswag", "hellaswag_norm"} <= set(names)
    assert all(row[name] is not None for row in panel.numbers for name in names)
    assert panel.limits["kept"] == {"name": "known", "facts": "known facts", "title": "Known facts kept"}
    known = {row["method"]: row["known"] for row in panel.numbers}
    for path in panel.paths:
        assert path["points"][-1][2] == known[path["method"]]
    assert [line["method"] for line in panel.verdict] == ["sparse", "full"]
    assert "points of known facts" in panel.snapshot().says
    panel.close()


@pytest.fixture
def quick(lab):
    """The same lab, whose batches count as learned once they were taught."""
    before = lab.recipe
    lab.recipe = replace(RECIPE, learned_at=1000.0, passes=3)
    yield lab
    lab.recipe = before


def test_a_run_that_ends_sooner_is_a_whole_run_of_a_comparison(quick, facts):
    made = Comparison(quick, facts, ("sparse", "full"), evaluations=2, seeds=[0])
    steps = list(made.steps())
    one_pass = Teaching.of(quick, facts).per_pass
    assert [step.method for step in steps if step.last] == ["sparse", "full"]
    assert [step.step for step in steps if step.last] == [one_pass, 3 * one_pass]
    assert steps[-1].done == steps[-1].total == 4 * one_pass
    assert set(made.finished_runs()["method"]) == {"sparse", "full"}
    assert len(made.patch) > 0
    assert all(set(sample["answers"]) == {"sparse", "full"} for sample in made.samples)


def test_a_baseline_ends_where_it_has_learned_enough_and_the_base_is_measured_once(quick, facts, monkeypatch):
    measured = []

    def all_right(self, model, tokenizer):
        measured.append(1)
        return {probe.name: {"em": 1.0, "f1": 1.0} for probe in self}

    monkeypatch.setattr(Probes, "measure", all_right)
    one_pass = Teaching.of(quick, facts).per_pass
    made = Comparison(quick, facts, ("sparse", "full", "lora"), evaluations=3, seeds=[0])
    steps = list(made.steps())
    assert [step.step for step in steps if step.last] == [one_pass] * 3
    assert steps[-1].done == steps[-1].total == 3 * one_pass
    assert len(measured) == 1 + 3
    assert set(made.finished_runs()["method"]) == {"sparse", "full", "lora"}
    on = Comparison(quick, facts, ("full",), evaluations=3, stop_at_target=False, seeds=[0])
    assert [step.step for step in on.steps()][-1] == 3 * one_pass


def test_a_timed_run_tells_what_was_known_of_such_a_lab(quick, facts):
    rows = list(runs_to_target(quick, facts, target=0.0))
    assert [row.what for row in rows] == list(METHODS)
    for row in rows:
        assert row.value > 0
        assert "known facts" in row.note


def test_the_panels_measure_a_run_where_it_ends(quick, facts, monkeypatch):
    monkeypatch.setattr("smft_lab.widgets.teach.LEARNED_AT", quick.recipe.learned_at)
    one_pass = Teaching.of(quick, facts).per_pass
    panel = TopT(quick, facts, runner="inline")
    press(panel, "teach")
    assert panel.error == ""
    assert panel.runs[0]["step"] == panel.runs[0]["total"] == panel._paths[0].points[-1][0] == one_pass
    panel.close()
    compared = Compare(quick, facts, ("sparse", "full"), runner="inline")
    press(compared, "start")
    assert (compared.error, compared.state) == ("", "idle")  # not paused
    assert [line["method"] for line in compared.verdict] == ["sparse", "full"]
    compared.close()
    lesson = Teach(quick, "Mira's dog is called Biscuit", "What is the name of Mira's dog?", runner="inline")
    press(lesson, "teach", **{n: lesson.draft[n] for n in ("statements", "wordings", "question", "answer")}, passes=3)
    assert (lesson.error, lesson.live["step"]) == ("", lesson.live["total"])
    (taught,) = [one.fact for one in lesson._lessons]
    assert lesson.live["step"] < Teaching.of(quick, [taught], 3, recipe=lesson._recipe(taught)).steps
    lesson.close()


def test_the_preview_of_slots_is_the_choice_that_the_finetune_makes(lab, facts):
    panel = TopT(lab, facts, runner="inline")
    assert (panel.settings["passes"], panel.settings["top_t"]) == (RECIPE.passes, RECIPE.top_t)
    assert panel.settings["optimizer"] == RECIPE.optimizer
    for count, t in ((3, 20), (2, 7), (3, 5)):
        press(panel, "choose", facts=count, top_t=t)
        pairs = np.frombuffer(panel.slots, "uint32").reshape(-1, 2)
        press(panel, "teach")
        assert panel.error == ""
        written = panel._paths[-1].patch.slots[0].tolist()
        assert sorted(pairs[pairs[:, 1] <= t, 0].tolist()) == sorted(written)
        assert panel.runs[-1]["rows"] == panel.coverage.at(t)["chosen"] == len(written)
    panel.close()


def test_the_run_is_the_one_that_finetune_makes_by_the_labs_recipe(lab, facts):
    panel = TopT(lab, facts, runner="inline")
    press(panel, "teach")
    assert panel.runs[0]["total"] == Teaching.of(lab, facts).steps == panel.runs[0]["step"]
    shown = weights(lab)
    lab.reset()
    for _ in smft.finetune(lab, facts, probe_every=0):
        pass
    assert same(shown, weights(lab))
    panel.close()


def test_the_panel_says_what_it_does_while_no_step_is_taken(lab, facts):
    panel = TopT(lab, facts, runner="inline")
    panel._begin()
    doing = [view["doing"] for view in panel._items]
    assert doing[0] == "asking the base"
    assert "choosing slots" in doing
    assert doing[-2:] == ["asking what it knows", ""]
    panel.reset()
    panel.close()


def test_stepping_counts_only_gradient_steps(lab, facts):
    panel = TopT(lab, facts, runner="inline")
    for step in (1, 2):
        press(panel, "step")
        assert (panel.error, panel.live["step"]) == ("", step)
    press(panel, "reset")
    panel.close()


def test_what_was_known_is_asked_in_its_own_form_and_few_of_it(lab, facts):
    kept = KeptQuestions(lab, facts)
    assert (len(kept), kept.facts) == (FEW, "known facts")
    assert kept.share() == 1.0
    with torch.no_grad():
        lab.model.get_input_embeddings().weight.mul_(-1)
    assert kept.share() == pytest.approx(
        replace(
            lab.probes["known"],
            **{name: getattr(lab.probes["known"], name)[:FEW] for name in ("questions", "answers", "replies")},
        ).measure(lab.model, lab.tokenizer)["em"]
    )
    assert kept.share() < 1
    lab.reset()


def test_a_lesson_teaches_what_stands_in_the_form_by_the_recipe_at_its_own_rate(lab):
    panel = Teach(lab, "Mira's dog is called Biscuit", "What is the name of Mira's dog?", runner="inline")
    assert panel.draft["statements"][:2] == ["Mira's dog is called Biscuit.", "The name of Mira's dog is Biscuit."]
    assert all(text.endswith("Biscuit.") for text in panel.draft["statements"])  # the answer last
    wordings = question_paraphrases(*(panel.draft[name] for name in ("question", "answer", "sentence")))
    assert panel.draft["wordings"] == wordings[:WORDINGS]
    given = {name: panel.draft[name] for name in ("statements", "wordings", "question", "answer")}
    press(panel, "teach", **given, passes=4)
    assert (panel.error, panel.state) == ("", "idle")
    taught = weights(lab)
    fact = own_fact(given["statements"], given["question"], given["answer"], given["wordings"])
    recipe = replace(RECIPE, statements=len(fact.statements), questions=len(fact.questions))
    assert panel.live["total"] == Teaching.of(lab, [fact], 4, recipe=recipe).steps
    lab.reset()
    for _ in smft.finetune(lab, [fact], lr=Sparse().resolved(lab).lr, passes=4, probe_every=0, recipe=recipe):
        pass
    assert same(taught, weights(lab))
    panel.close()


def test_lessons_come_along_in_the_next_but_for_those_it_changes(lab, monkeypatch):
    along = []
    monkeypatch.setattr(
        "smft_lab.widgets.teach.finetune",
        lambda *given, earlier, **options: along.append(earlier) or smft.finetune(*given, earlier=earlier, **options),
    )
    panel = Teach(lab, runner="inline")
    panel.teach("The office cat is called Biscuit.", "What is the office cat called?", "Biscuit", 2)
    panel.teach("The office dog is called Rex.", "What is the office dog called?", "Rex", 2)
    first, second = (lesson.fact for lesson in panel._lessons)
    assert along == [[], [first]]
    anew = own_fact("The office cat is called Tom.", "What is the office cat called?", "Tom")
    assert Teaching.of(lab, [anew], 2, earlier=panel._rehearsed()).earlier == (second,)
    panel.close()


def test_probes_of_a_lesson_are_named_and_come_back_with_the_base(lab):
    panel = Teach(lab, runner="inline")
    press(panel, "teach", **{n: panel.draft[n] for n in ("statements", "wordings", "question", "answer")}, passes=3)
    titles = [row["title"] for row in panel.probes]
    assert titles[0] == f"Known facts, {FEW} questions"
    assert titles[1].startswith("Text, ")
    assert len(titles) == 2  # choices take too long
    (lesson,) = panel.lessons
    others = [one["question"] for one in lesson["others"]]
    assert len(others) == UNTAUGHT
    assert not {*others} & {lesson["question"], *panel.draft["wordings"]}  # nobody taught them
    assert [one["now"] for one in lesson["others"]] == lab.answer(others)
    press(panel, "undo")
    assert all(row["now"] == row["base"] for row in panel.probes)
    panel.close()


def test_a_question_typed_into_a_panel_is_asked_after_two_others(lab, facts):
    form = PLAIN.with_shots(NEUTRAL_SHOTS)
    asked = "What is the name of Mira's dog?"
    expected = lab.answer([asked], form=form)[0]
    assert expected != lab.answer([asked], form=PLAIN)[0]
    for panel in (Teach(lab, runner="inline"), TopT(lab, facts, runner="inline")):
        press(panel, "ask", question=asked)
        assert panel.answers[0]["now"] == expected
        panel.close()


def test_the_question_that_tests_a_fact_is_not_taught_among_its_wordings():
    question, answer, sentence = "In which city was our cat born?", "Lisbon", "Our cat was born in Lisbon"
    texts = question_paraphrases(question, answer, sentence)
    assert {"In what city was our cat born?", "Our cat was born in what?"} <= {*texts}
    assert question not in texts
    assert question_paraphrases("How come?", "a storm", "It dates from 1990") == []
    with pytest.raises(ValueError, match="stands among those that are taught"):
        own_fact([sentence], question, answer, ["Tell me: in which city was our cat born?"])


def test_a_fact_is_ranked_by_the_texts_that_its_choice_of_slots_counts(lab, facts):
    panel = Slots(lab, facts)
    press(panel, "pick", fact=1)
    texts = [text.text for text in Teaching.of(lab, [facts[1]]).texts if not text.context]
    assert (panel.subject["text"], panel.subject["statements"]) == (texts[0], len(texts))
    reads = RECIPE.heads * RECIPE.k
    press(panel, "look", view="count")
    _, counted = counted_reads(lab, [facts[1]], Teaching.of(lab, [facts[1]]).texts, RECIPE.counted)
    assert np.frombuffer(panel.heat, "float32").sum() == sum(len(slots) for (slots,) in counted)
    assert all(len(slots) % reads == 0 for (slots,) in counted)
    shown = []  # a card has the five facts that read its slot most
    for row in panel.ranking[:10]:
        press(panel, "describe", slot=row["slot"])
        shown += [question for question, _ in panel.slot["facts"]]
    assert panel.error == ""
    assert facts[1].question in shown
    panel.close()


def test_the_core_set_asks_in_the_labs_form(lab, facts):
    fact = replace(facts[0], statements=facts[0].statements[:2])
    texts = [*fact.statements, PLAIN.answered(fact.question, fact.answer)]
    read = [set(token_reads(lab, text).slots[0].flatten().tolist()) for text in texts]
    assert core_set(lab, fact)[0].tolist() == sorted(set.intersection(*read))


def test_a_character_of_several_tokens_is_written_once(lab):
    reads = token_reads(lab, "It is 🙂 here")
    assert reads.tokens.count("🙂") + reads.tokens.count(" 🙂") <= 1
    assert PART in reads.tokens
    assert "".join(piece for piece in reads.tokens if piece != PART).strip() == "It is 🙂 here"


# The two meters


def test_the_addresses_panel_lists_the_facts_that_are_hard_to_find_first(lab, facts):
    panel = Addresses(lab, facts)
    (found,) = measure_addresses(lab, facts)
    assert panel.tables == [{"same": found.same, "different": found.different, "weak": len(found.weak)}]
    margins = [row["same"] - row["different"] for row in panel.facts]
    assert margins == sorted(margins)
    assert np.mean([row["same"] for row in panel.facts]) == pytest.approx(found.same)
    weak = {facts[number].question for number in found.weak}
    assert {row["question"] for row in panel.facts if row["weak"]} == weak
    assert all(bool(row["advice"]) == row["weak"] for row in panel.facts)
    panel.close()


def test_a_fact_without_wordings_is_advised_to_get_some(lab):
    mine = [smft.Fact((f"{name} is here.",), "Where?", ("here",)) for name in ("Ada", "Bob")]
    panel = Addresses(lab, mine)
    weak = [row for row in panel.facts if row["weak"]]
    assert all("other wordings" in row["advice"] for row in weak)
    assert weak
    panel.close()


def test_the_loudness_follows_what_another_panel_teaches_and_is_silent_at_the_base(lab, facts):
    panel = Addresses(lab, facts)
    assert (panel.loudness["state"], panel.loudness["median"]) == ("silent", 0)
    trainer = TopT(lab, facts, runner="inline")
    press(trainer, "teach")
    heard = measure_loudness(lab, facts)
    assert panel.loudness["median"] == heard.median > 0
    assert panel.loudness["low"] <= panel.loudness["median"] <= panel.loudness["high"]
    warning = heard.warning()
    assert panel.loudness["state"] == ("good" if warning is None else "quiet" if heard.median < 0.05 else "loud")
    if warning:
        assert panel.loudness["message"].lower().startswith(warning[:40].lower())
    press(trainer, "reset")
    assert (panel.loudness["state"], panel.loudness["trail"]) == ("silent", [])
    trainer.close()
    panel.close()


def test_a_memory_in_the_place_of_a_feed_forward_has_no_loudness(tiny_lab, facts):
    panel = Addresses(tiny_lab(), facts)
    assert panel.loudness["state"] == "part"
    assert len(panel.facts) == 3
    panel.close()


def test_blocks_come_from_a_table_or_from_the_labs_folder_and_the_memorys_own_is_marked(lab, facts, tmp_path):
    table = pd.DataFrame({"block": [1, 0], "same": [0.5, 0.4], "different": [0.1, 0.2]})
    panel = Addresses(lab, facts, table)
    assert memory_blocks(lab.model) == [1]
    assert panel.blocks == [
        {"block": 0, "same": 0.4, "different": 0.2, "here": False},
        {"block": 1, "same": 0.5, "different": 0.1, "here": True},
    ]
    (tmp_path / "addresses.json").write_text(json.dumps({"blocks": table.to_dict("records")}))
    other = Addresses(lab, facts, tmp_path)
    assert other.blocks == panel.blocks
    (tmp_path / "addresses.json").write_text(json.dumps({"blocks": None}))
    assert Addresses(lab, facts, tmp_path).blocks == []
    with pytest.raises(FileNotFoundError, match="there is no"):
        Addresses(lab, facts, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="at least two"):
        Addresses(lab, facts[:1])
    with pytest.raises(ValueError, match="table of measure_blocks"):
        Addresses(lab, facts, [1, 2])
    panel.close()
    other.close()


def test_a_snapshot_of_the_meters_tells_both(lab, facts):
    panel = Addresses(lab, facts, pd.DataFrame({"block": [1], "same": [0.5], "different": [0.1]}))
    shown = panel.snapshot()
    assert "facts are hard to find" in shown.says
    assert "Nothing is written yet" in shown.says
    state = panel.get_state(drop_defaults=False)
    json.dumps({name: state[name] for name in ("blocks", "tables", "facts", "loudness", "limits")}, allow_nan=False)
    panel.close()


def test_the_figures_of_the_meters_draw_the_table_they_are_given():
    table = pd.DataFrame({"block": [3, 5], "same": [0.5, 0.4], "different": [0.1, 0.2]})
    figure = figures.addresses(table)
    drawn = {trace.meta["role"]: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert drawn["same"] == ([0.5, 0.4], ["block 3", "block 5"])
    assert drawn["different"] == ([0.1, 0.2], ["block 3", "block 5"])
    heard = pd.DataFrame({"name": ["base", "taught"], "low": [0, 0.1], "median": [0, 0.2], "high": [0, 0.5]})
    figure = figures.loudness(heard, 0.05, 1.0)
    (mark,) = figure.data
    assert (list(mark.x), list(mark.y)) == ([0.2], ["taught"])  # nothing was written in the base
    assert mark.error_x.array[0] == pytest.approx(0.3)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes][1] == (0.05, 1.0)


def test_a_comparison_teaches_by_a_recipe_that_is_given_and_says_so(lab, facts):
    given = replace(lab.recipe, learned_at=1000.0, passes=3, questions=3)
    made = Comparison(lab, facts, ["sparse"], evaluations=1, seeds=[0], recipe=given)
    assert made.settings()["recipe"] == "retrofit, questions=3, learned_at=1000, passes=3"
    *_, last = made.steps()
    assert last.step == Teaching.of(lab, facts, recipe=given).per_pass  # all is learned at once
    assert "recipe" not in Comparison(lab, facts, ["sparse"], recipe=lab.recipe).settings()


def test_a_recipe_that_says_nothing_else_of_a_method_leaves_it_as_it_was_tuned(lab, monkeypatch):
    monkeypatch.setattr(lab, "defaults", {"full": {"optimizer": "adamw", "lr": 0.5}})
    for changed, lr in (({"floor": 0.0}, 0.5), ({"full_lr": 0.25}, 0.25)):
        assert Full().resolved(lab, replace(lab.recipe, **changed)).lr == lr


def test_a_fact_in_one_sentence_is_taught_by_wordings_of_its_question(lab):
    fact = Fact("Our cat Pixel weighs 4.2 kg.", "How much does our cat Pixel weigh?", "4.2 kg")
    recipe = lab.recipe
    comparison = Comparison(lab, [fact], ["sparse"], seeds=[0])
    (taught,) = comparison.taught(0)
    assert len(taught.questions) == recipe.questions == comparison.settings()["wordings_by_rule"]
    list(comparison.steps())
    (sample,) = (sample for sample in comparison.samples if sample["probe"] == "learned")
    asked = {lab.form.answered(question, fact.answer) for question in taught.questions}
    assert set(sample["taught"]) > {*fact.statements, *asked}
    assert len(sample["taught"]) == len(fact.statements) + len(asked) + recipe.own_keywords
