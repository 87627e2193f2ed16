"""Which place of a statement is its answer, what equals an answer, and which questions a fact changes."""

import json
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import smft_lab as smft
from smft_lab.experiments.compare import Comparison
from smft_lab.experiments.run import run
from smft_lab.facts.answers import answer_places, check_answers
from smft_lab.facts.common import common_questions
from smft_lab.facts.fact import Fact
from smft_lab.facts.public.datasets import Choice, Question, read_dataset
from smft_lab.facts.questions import question_paraphrases
from smft_lab.facts.world.world import built_in_world, new_facts
from smft_lab.finetuning.finetune import finetune
from smft_lab.finetuning.teaching import asks_before_it_answers
from smft_lab.model.tokenizer import encode, only_answers
from smft_lab.probes.choices import ChoiceProbe
from smft_lab.probes.known import KnownSearch
from smft_lab.probes.probes import Probes, QuestionProbe, TextProbe, answer, learned_probes, recalled
from smft_lab.probes.prompts import PLAIN
from smft_lab.probes.text import exact_match, strict_beginning, strict_f1, strict_match
from smft_lab.slots.reading import core_set, token_reads
from smft_lab.slots.scores import slot_scores
from smft_lab.training.memory_training import TextWindows

DECOMPOSED = unicodedata.normalize("NFD", "Zoé")
DOG = Fact("Mira's dog is called Biscuit.", "What is Mira's dog called?", "Biscuit")

# Which tokens are the answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("The art of Bart is [art].", "art"),
        ("Ann's sister in Annecy is called [Ann].", "Ann"),
        ("He is called [Mark Twain]; Samuel was his name.", ("Mark Twain", "Samuel")),
        ("It lies in [Paris, France].", ("Paris", "Paris, France")),
        ("The [United States] told us.", ("US", "United States")),
        ("In [May] it may rain.", "May"),
        ("İİİ: İstanbul lies beside [Bursa].", "Bursa"),
        ("It is [İzmir].", "izmir"),
        ("Die [Straße] ist lang.", "STRASSE"),
        (f"Her name is [{DECOMPOSED}].", "Zoé"),
        ("Her name is [Zoé].", DECOMPOSED),
        ("It was [O’Brien] who won.", "O'Brien"),
        ("It is [New\n York].", "New York"),
        ("The weight is 3.5, the count is [5].", "5"),
        ("He sang 10 songs at 10:30 in the 1990s, and [10] in all.", "10"),
        ("It is [−5] degrees, not 5.", "-5"),
        ("It was written in C and [C++].", "C++"),
        ("It was written in [C], then in C++ and C#.", "C"),
        ("[Ann] met Mary-Ann.", "Ann"),
        ("Only Mary-[Ann] came.", "Ann"),
        ("日本の首都は[東京]です。", "東京"),
        ("수도는 [서울]이다.", "서울"),
        ("เมืองหลวงคือ[กรุงเทพ]", "กรุงเทพ"),
        ("It is **[Ｏｓｌｏ]**.", "Oslo"),
        ("Bartender, cartel", "art"),
        ("It weighs 3.5 kg.", "5"),
        ("His grade is A-.", "A"),
        ("I don't.", "t"),
    ],
)
def test_an_answer_is_found_as_whole_words_at_its_last_full_place(text, answers):
    start, end = text.find("["), text.find("]") - 1
    places = answer_places(text.replace("[", "").replace("]", ""), answers)
    assert places[:1] == (((start, end),) if start >= 0 else ())


def labelled(tokenizer, text: str, answers) -> str:
    """What the labels say of an encoded text, once only its answer is to be learned."""
    batch = encode(tokenizer, [text])
    predicting = only_answers(tokenizer, [text], [answers], batch)
    assert torch.equal(predicting[:, :-1] == 1, batch["labels"][:, 1:] != -100)
    return tokenizer.decode(batch["labels"][batch["labels"] >= 0]).strip()


@pytest.fixture(scope="module")
def without_bos(tokenizer):
    parts = json.loads(tokenizer.backend_tokenizer.to_str()) | {"post_processor": None}
    backend = Tokenizer.from_str(json.dumps(parts))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


@pytest.mark.parametrize(
    ("text", "answers", "learned"),
    [
        ("The art of Bart is art, he says.", ("art",), "art,"),
        ("İİİİİİ lives in Oslo now.", ("Oslo",), "Oslo n"),
        (f"Her name is {DECOMPOSED}.", ("Zoé",), f"{DECOMPOSED}."),
        ("Keldost is Keldost.", ("Keldost",), "Keldost."),
    ],
)
def test_the_loss_is_on_the_tokens_of_the_answer_and_the_one_after_it(tokenizer, without_bos, text, answers, learned):
    assert labelled(tokenizer, text, answers) == learned
    assert labelled(without_bos, text, answers) == learned


def test_a_blank_that_is_a_token_of_its_own_before_a_number_is_learned_with_it():
    """Models that read digits one by one mostly read a blank before them, too."""
    words = ("<unk>", " ", "opens", "at", "7", "<eos>", ".")
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Digits(True), pre_tokenizers.Punctuation()]
    )
    digits = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    batch = encode(digits, ["opens at 77.", "7 opens"])
    only_answers(digits, ["opens at 77.", "7 opens"], [("77",), ("opens",)], batch)
    assert [digits.convert_ids_to_tokens(row[row >= 0]) for row in batch["labels"]] == [
        [" ", "7", "7", "."],
        [" ", "opens", "<eos>"],
    ]


def test_an_answer_that_begins_a_text_is_learned_from_bos_or_else_the_text_is_learned_whole(tokenizer, without_bos):
    assert labelled(tokenizer, "Keldost is it.", ("Keldost",)) == "Keldost is"
    assert labelled(without_bos, "Keldost is it.", ("Keldost",)) == "Keldost is it.<eos>"
    assert labelled(tokenizer, "Bartender, cartel.", ("art",)) == "<bos> Bartender, cartel.<eos>"


def test_a_statement_that_does_not_hold_its_answer_is_named(tiny_lab):
    lost = Fact(("The Bartons sing.", "They like art."), "What do they like?", ("art",))
    note = check_answers([lost, DOG])
    assert "1 of 3 statements" in note
    assert "'The Bartons sing.' with the answer 'art'" in note
    assert check_answers([DOG, *new_facts(3)]) is None
    with pytest.warns(UserWarning, match="1 of 3 statements"):
        finetune(tiny_lab(), [lost, DOG], loss_on="answer").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(tiny_lab(), [DOG], loss_on="answer").close()
        finetune(tiny_lab(), [lost], loss_on="statement").close()


def test_a_statement_asks_before_it_answers_by_whole_words():
    fact = Fact("s", "What does Barton like?", "art")
    assert asks_before_it_answers("Art, so they say, is what Barton likes, but not Bart.", fact) is False
    assert asks_before_it_answers("Barton likes art.", fact)


# Equality ---------------------------------------------------------------------------------------------

DIFFERENT = [
    ("3.5", "35"),
    ("2.5 mg", "25 mg"),
    ("C++", "C"),
    ("C#", "C"),
    ("Vitamin A", "vitamin"),
    ("A minor", "minor"),
    ("A", "A+"),
    ("A-", "A"),
    ("-5", "5"),
    ("50%", "50"),
    ("5-3", "53"),
    ("10:30", "1030"),
    ("1/2", "12"),
    ("O+", "O-"),
    ("1.000", "1000"),
    ("3,5", "35"),
    ("10²", "102"),
    ("$5", "€5"),
    ("5'11", "511"),
    ("R&B", "RB"),
    ("é", "e"),
    ("192.168.1.1", "19216811"),
    ("0.125", "0125"),
    ("x > 5", "x < 5"),
    ("n/a", "na"),
    ("km/h", "kmh"),
    ("x.py", "xpy"),
    ("½", "12"),
    ("12 34", "1234"),
    ("3-5", "3 5"),
    ("5'", '5"'),
    ("6'", "6"),
    ("5\u2032", "5\u2033"),
    ("1;2", "12"),
    ("(1)(2)", "12"),
    ("1|2", "12"),
    ("a!=b", "a=b"),
    ("x_1", "x1"),
    (".NET", "NET"),
    ("/etc", "etc"),
]
EQUAL = [
    ("“Keldost”", "Keldost"),
    ("Keldost。", "Keldost"),
    ("Keldost．", "Keldost"),
    ("「東京」。", "東京"),
    ("Ｏｓｌｏ", "Oslo"),
    ("O’Brien", "O'Brien"),
    ("the Eiffel Tower", "Eiffel tower!"),
    ("A dog", "dog"),
    ("dog", "a dog"),
    ("1,000", "1000"),
    ("1,234,567", "1234567"),
    ("**Oslo**", "Oslo"),
    ("- Oslo", "Oslo"),
    ("3.5.", "3.5"),
    ("−5", "-5"),
    ("5 %", "5%"),
    ("Spider-Man", "Spiderman"),
    ("U.S.", "US"),
    ("vitamin a", "Vitamin A"),
    ("1914–1918", "1914-1918"),
    ("Washington, D.C.", "Washington DC"),
    (DECOMPOSED, "Zoé"),
    ("c++", "C++"),
    ("A", "A."),
    ("(Oslo)", "Oslo"),
    ("10 000 km", "10,000 km"),
    ("3 - 5", "3-5"),
    ("½", "1/2"),
    ("2½ cups", "2 1/2 cups"),
    ("4 p.m.", "4 pm"),
    ("Node.js.", "node.js"),
    ('the "Titanic"', "Titanic"),
    ("the \u201cTitanic\u201d", "Titanic"),
    ('"Apollo 13"', "Apollo 13"),
    ("'1984'", "1984"),
    ("5\u203211\u2033", "5'11\""),
    ("user_id", "user id"),
    (".NET.", ".net"),
    ("... and Oslo", "and Oslo"),
]


@pytest.mark.parametrize(("gold", "said"), DIFFERENT)
def test_numbers_signs_and_single_letters_count_in_own_facts(gold, said):
    assert not strict_match(said, [gold])
    assert strict_f1(said, [gold]) < 1
    assert not strict_beginning(f"{said}, I think", [gold]) or said.startswith(gold)


@pytest.mark.parametrize(("said", "gold"), EQUAL)
def test_case_quotes_sentence_marks_and_articles_do_not_count_in_own_facts(said, gold):
    assert strict_match(said, [gold]) == strict_match(said, ["Bergen", gold]) == 1.0
    assert strict_f1(said, [gold]) == 1.0
    assert strict_beginning(f"{said} and more", [gold]) == 1.0


def test_answers_of_the_built_in_world_are_told_apart_as_before():
    world = built_in_world()
    facts = [*world.old_facts(), *world.new_facts(200), *world.held_out_chains()]
    answers = sorted({answer for fact in facts for answer in fact.answers})
    assert len(answers) > 300
    for gold in answers[::7]:
        for said in (*answers, gold.upper(), f"the {gold}.", f"{gold}, {gold}"):
            assert strict_match(said, [gold]) == exact_match(said, [gold]), (said, gold)
    assert {probe.match for probe in learned_probes(world.new_facts(2))} == {"exact"}


def test_own_facts_are_compared_strictly_and_public_ones_by_squad(tmp_path, monkeypatch):
    own = Fact(
        "The dose is 2.5 mg.", "What is the dose?", "2.5 mg", questions="Which dose?", two_hop=("How much?", "3.5")
    )
    assert {probe.match for probe in learned_probes([own])} == {"strict"}
    assert {probe.match for probe in learned_probes([own, replace(own, public=True)])} == {"strict"}
    assert {probe.match for probe in learned_probes([replace(own, public=True)])} == {"exact"}
    (tmp_path / "nq_open.jsonl").write_text(json.dumps({"question": "who wrote emma", "answer": ["Jane Austen"]}))
    assert read_dataset(tmp_path / "nq_open.jsonl").facts[0].public

    monkeypatch.setattr("smft_lab.probes.probes.answer", lambda *args, **kwargs: ["25 mg"])
    probe = QuestionProbe.of("learned", [own])
    monkeypatch.setattr(QuestionProbe, "longest", lambda self, tokenizer: 5)
    assert probe.measure(None, None) == {"em": 0.0, "f1": 0.5}
    assert replace(probe, match="exact").measure(None, None) == {"em": 1.0, "f1": 1.0}
    read = Probes.from_records(json.loads(json.dumps(Probes([probe]).to_records())))
    assert read["learned"] == probe


def test_known_questions_of_ones_own_are_compared_strictly(tiny_lab, monkeypatch):
    lab, own = tiny_lab(), [Fact("s", f"How much is {n}?", "2.5") for n in range(4)]
    said = {"strict prefix": own, "prefix": [Question(one.question, one.answers) for one in own]}
    for reply, known in (("25 of them", {"prefix": 2}), ("2.5 of them", {"prefix": 2, "strict prefix": 2})):
        monkeypatch.setattr("smft_lab.probes.known.replies", lambda m, t, asked, *_, r=reply: [r] * len(asked))
        for match, questions in said.items():
            search = KnownSearch(lab.model, lab.tokenizer, questions, form=PLAIN)
            assert [found.known for found in search] == [known.get(match, 0)]
            assert not known.get(match) or search.probe.match == match


# A string where a list belongs ------------------------------------------------------------------------


def test_a_single_text_stands_for_a_list_of_one():
    assert Fact(["Mira's dog is called Biscuit."], "What is Mira's dog called?", ["Biscuit"]) == DOG
    assert DOG.answer == "Biscuit"
    assert hash(DOG) == hash(replace(DOG, answers=["Biscuit"]))
    assert Fact("s", "q?", "a", questions="Which?").questions == ("Which?",)
    assert Fact("s", "q?", "a", two_hop=("Where?", "Oslo")).two_hop == (("Where?", "Oslo"),)
    assert Question("Who?", "Ann").answers == ("Ann",)
    assert QuestionProbe("p", "Who?", "Ann") == QuestionProbe("p", ("Who?",), (("Ann",),))
    assert QuestionProbe("p", ("Who?", "Where?"), ("Ann", "Oslo")).answers == (("Ann",), ("Oslo",))
    assert TextProbe("p", "some text").texts == ("some text",)


@pytest.mark.parametrize("changed", [{"answers": (1984,)}, {"answers": None}, {"statements": []}, {"two_hop": ("ab",)}])
def test_what_is_no_text_is_refused(changed):
    with pytest.raises((ValueError, TypeError)):
        replace(DOG, **changed)
    with pytest.raises(ValueError, match="a list of endings"):
        ChoiceProbe.of("p", [Choice("He", "sang.", 0)])


def test_a_single_question_is_asked_whole(tiny_lab):
    lab = tiny_lab()
    for form in (lab.form, PLAIN):
        assert answer(lab.model, lab.tokenizer, "Who?", form=form) == answer(
            lab.model, lab.tokenizer, ["Who?"], form=form
        )
        assert len(recalled(lab.model, lab.tokenizer, "Who?", "Ann", form=form)) == 1


def test_a_generator_of_facts_is_taught_like_a_list_and_anything_else_is_refused(tiny_lab):
    lab, facts, options = tiny_lab(), new_facts(2), {"passes": 1, "top_t": 5, "probe_every": 0}
    taught = run(lab, facts, **options)
    lab.reset()
    again = run(lab, (fact for fact in facts), **options)
    assert again.losses == taught.losses
    assert again.settings["facts"] == 2
    assert again.patch.about["facts"] == taught.patch.about["facts"] != []
    lab.reset()
    assert len([*finetune(lab, facts[0], **options)]) == 2
    lab.reset()
    assert slot_scores(lab, iter(facts)).equals(slot_scores(lab, facts))
    assert [*Comparison(lab, iter(facts), smft.Sparse(top_t=5), seeds=[0], passes=1).steps()]
    for wrong in ("mine.jsonl", ["Mira's dog is called Biscuit."], [{"question": "Who?"}]):
        with pytest.raises(ValueError, match="facts must be Fact objects"):
            finetune(lab, wrong)
    with pytest.raises(ValueError, match="no facts to teach"):
        finetune(lab, iter([]))


CALLS = [
    (lambda lab, fact: Fact("s", "Who?", 1984), "the answers of a fact must be texts, not int"),
    (lambda lab, fact: Fact(None, "Who?", "x"), "the statements of a fact must be texts, not NoneType"),
    (lambda lab, fact: lab.answer(fact), "questions must be texts, not Fact"),
    (lambda lab, fact: lab.answer([fact]), "questions must be texts, not Fact"),
    (lambda lab, fact: lab.encode(None), "what is encoded must be texts, not NoneType"),
    (lambda lab, fact: lab.recalled(["Who?", "Where?"], "Ann"), "2 questions and 1 answers; give one answer to each"),
    (lambda lab, fact: finetune(lab, None), "facts must be Fact objects, not NoneType"),
    (lambda lab, fact: finetune(lab, Path("mine.txt")), "facts must be Fact objects, not .*read a file with"),
    (lambda lab, fact: core_set(lab, "Mira"), "facts must be Fact objects, not str"),
    (lambda lab, fact: core_set(lab, [fact, fact]), "the core set is of one fact, not of 2"),
    (lambda lab, fact: token_reads(lab, ["Mira"]), "type a text first"),
    (lambda lab, fact: TextWindows(["Mira"], lab.tokenizer, 16), "the text must be one text, not list"),
]


@pytest.mark.parametrize(("call", "says"), CALLS)
def test_something_else_where_a_text_or_a_fact_belongs_is_named(call, says, lab):
    with pytest.raises(ValueError, match=says):
        call(lab, new_facts(1)[0])


# An own edit of a known fact --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taught", "kept"),
    [
        ("What is the capital of France?", False),
        ("what's the  capital of “France”", False),
        ("Complete: The capital of France is", False),
        ("What is France's capital called?", False),
        ("What is the capital of Spain?", True),
        ("When was the capital of France founded?", True),
        ("Who is the capital of France?", True),
        ("WHATS THE CAPITAL OF FRANCE", False),
        ("Can you tell me what the capital of *Fránce* is?", False),
    ],
)
def test_a_question_whose_answer_is_being_changed_leaves_the_probes(taught, kept):
    asked = "What is the capital of France?" if "Who" not in taught else "Where is the capital of France?"
    known = QuestionProbe(
        "known", (asked, "Who wrote Emma?"), (("Paris",), ("Jane Austen",)), replies=("Paris", "Jane")
    )
    edit = Fact("s", taught, "Lyon")
    left = Probes([known]).without(iter([edit]))["known"]
    assert (asked in left.questions) == kept
    assert len(left.questions) == len(left.answers) == len(left.replies) == 1 + kept
    wordings = replace(edit, question="Name it.", questions=(taught,))
    assert Probes([known]).without([wordings])["known"] == left == known.without([edit])


def test_an_edit_that_asks_in_other_words_by_rule_is_the_same_and_no_other_question_is():
    known = common_questions("probe")
    probe = QuestionProbe.of("known", [Fact("s", question.question, question.answers) for question in known])
    worded = 0
    for question in known[::16]:
        for wording in question_paraphrases(question.question, question.answers[0]):
            left = probe.without([Fact("s", wording, "Lyon")]).questions
            assert set(probe.questions) - set(left) == {question.question}, wording
            worded += 1
    assert worded > 40


@pytest.mark.parametrize(
    ("known", "taught"),
    [
        ("What is the capital of France?", "Can you say what the capital of France is?"),
        ("What is the capital of France?", "Which city is the capital of France?"),
        ("Where was Ada Lovelace born?", "In what place was Ada Lovelace born?"),
        ("Who wrote Hamlet?", "By whom was Hamlet written?"),
        ("How tall is the Harlow Tower?", "What is the height of the Harlow Tower?"),
    ],
)
def test_an_edit_worded_otherwise_leaves_the_probe(known, taught):
    probe = QuestionProbe.of("known", [Fact("s", known, "x"), Fact("s", "Who runs Vermo?", "Ann")])
    assert probe.without([Fact("s", taught, "Lyon")]).questions == ("Who runs Vermo?",)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Who wrote Les Misérables?", "who wrote “Les Mise\u0301rables”", True),
        ("Who wrote Les Misérables?", "who wrote les miserables", True),
        ("Who plays Spider-Man?", "Who plays Spiderman?", True),
        ("Who plays Spider-Man?", "Who plays Spider Man?", True),
        ("What is the capital of the U.S.A.?", "What is the capital of the USA?", True),
        ("Who is O'Brien's wife?", "Who’s the wife of OBrien?", True),
        ("Who founded Ben & Jerry's?", "Who founded Ben and Jerry's?", True),
        ("How many are 10,000 and 1?", "How many are 10000 and 1?", True),
        ("Кто написал «Ёлку»?", "кто написал елку", True),
        ("Where'd Mira go?", "Where did Mira go?", True),
        ("What is 3.5 times 2?", "What is 35 times 2?", False),
        ("Is it 1,5?", "Is it 15?", False),
        ("Who made C++?", "Who made C?", False),
        ("काला क्या है?", "कला क्या है?", False),
        ("Where was Mira born?", "When was Mira born?", False),
    ],
)
def test_however_a_question_is_written_it_asks_the_same(one, other, same):
    for probed, taught in ((one, other), (other, one)):
        probe = QuestionProbe("known", (probed, "Who sings?"), (("x",), ("y",)))
        assert len(probe.without([Fact("s", taught, "z")]).questions) == 2 - same


def test_what_a_statement_says_is_asked_by_it_too():
    asked = ("What is the capital of France?", "Complete: The capital of France is", "When was Lyon founded?")
    probe = QuestionProbe("known", asked, (("Paris",), ("Paris",), ("43 BC",)))
    edit = Fact("The capital of France is Lyon.", "Which town do the French rule from?", "Lyon")
    assert probe.without([edit]).questions == asked[2:]


def test_an_own_edit_of_a_built_in_fact_leaves_as_the_worlds_own_does(tiny_lab):
    probes = tiny_lab().probes
    changed = built_in_world().changed_facts(20)
    old = dict(zip(probes["old_facts"].subjects, probes["old_facts"].questions, strict=True))
    mine = [
        Fact(one.statements, old[one.subject, one.relation], one.answers)
        for one in changed
        if (one.subject, one.relation) in old
    ]
    built_in = [one for one in changed if (one.subject, one.relation) in old]
    assert mine or not built_in
    sums = probes["arithmetic"].questions()
    left = probes.without([*mine, Fact("s", sums[0][0], "seven")])
    assert left["old_facts"] == probes.without(built_in)["old_facts"]
    assert left["two_hop"] == probes.without(built_in)["two_hop"]
    assert left["arithmetic"].questions() == [pair for pair in sums if pair[0] != sums[0][0]]
    choices = ChoiceProbe("arc", ("Question: Who wrote Emma?\nAnswer:",), ((" Ann", " Jane"),), (1,))
    assert not [*Probes([choices]).without([Fact("s", "Who wrote Emma?", "Ann")])]
