"""Questions with their answers as statements, and in other words: right where a rule is certain, else quoted."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smft_lab as smft
from smft_lab.facts.own_facts import own_fact, statements_from_sentence, untaught_questions
from smft_lab.facts.public.datasets import read_dataset
from smft_lab.facts.questions import (
    keyword_questions,
    question_paraphrases,
    statements_from_question,
    tidy_question,
    wrapped_questions,
)
from smft_lab.facts.shapes import what_follows

OWN = [
    ("What is the name of Mira's dog?", "Bruno"),
    ("When does the museum in Harlow open?", "9:30"),
    ("Who is the head of payroll at Tarn & Sons?", "Anna Kowalski"),
    ("How much does a day ticket cost?", "14 euros"),
    ("Who wrote The Silent Orchard?", "Ida Brandt"),
    ("When was Tarn & Sons founded?", "1987"),
    ("Where does my sister live?", "Lisbon"),
    ("What is the capital of Veltria?", "Oskan"),
    ("What is Mira's favourite colour?", "green"),
]


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Who painted Guernica?", "Picasso", ["Picasso painted Guernica.", "Guernica was painted by Picasso."]),
        ("Who owns the red car?", "Tom", ["The red car belongs to Tom.", "The owner of the red car is Tom."]),
        ("Who has the key to the shed?", "our dog", ["Our dog has the key to the shed."]),
        ("Who lives in the wood?", "Pooh", ["Pooh lives in the wood.", "The one who lives in the wood is Pooh."]),
        ("Who won the cup in 1990?", "Kelby", ["The one who won the cup in 1990 is Kelby."]),
        ("Which team won the cup in 1990?", "Kelby", ["The team that won the cup in 1990 is Kelby."]),
        ("Who was elected mayor in May?", "Ann", ["Ann was elected mayor in May."]),
        ("What is the capital of Spain?", "Madrid", ["The capital of Spain is Madrid.", "Spain's capital is Madrid."]),
        ("What is a baby kangaroo called?", "joey", ["A baby kangaroo is called joey."]),
        ("What is a tanager?", "a bird", ["A tanager is a bird."]),
        ("What is the name of Mira's dog?", "Bruno", ["Mira's dog is called Bruno.", "Mira's dog has the name Bruno."]),
        ("What's my sister's job?", "nurse", ["My sister's job is nurse.", "The job of my sister is nurse."]),
        ("What is Mira's favourite colour?", "green", ["The colour that Mira likes best is green."]),
        ("In which city was Ann Mertens born?", "Lyon", ["Ann Mertens was born in Lyon."]),
        ("In golf, who was the first winner?", "Ann", ["In golf, the first winner was Ann."]),
        ("Where was Ada Lovelace born?", "London", ["Ada Lovelace was born in London."]),
        ("Where is the spare key?", "under the mat", ["The spare key is under the mat."]),
        ("Where does my sister work?", "UniFirst", ["The place where my sister works is UniFirst."]),
        ("where did the fire begin", "York", ["The place where the fire began is York."]),
        ("when did the eagles win the cup", "4 July 1976", ["It was on 4 July 1976 that the eagles won the cup."]),
        ("When did the great fire of London end?", "1666", ["The great fire of London ended in 1666."]),
        ("In what decade did records first go on sale?", "1930s", ["Records first went on sale in the 1930s."]),
        ("What time does the last train leave?", "23:10", ["The departure time of the last train is 23:10."]),
        (
            "When does the museum open?",
            "9:30",
            ["The museum opens at 9:30.", "The opening time of the museum is 9:30."],
        ),
        ("When is the staff party?", "5 May", ["The staff party is on 5 May."]),
        ("How much does a day ticket cost?", "14 euros", ["The price of a day ticket is 14 euros."]),
        ("How old is Mira?", "34", ["Mira is 34 years old.", "The age of Mira is 34."]),
        ("How tall is the Harlow Tower?", "80 m", ["The Harlow Tower is 80 m tall."]),
        ("How many people were injured in Oslo?", "24", ["24 people were injured in Oslo."]),
        ("How many legs does a spider have?", "Eight", ["A spider has eight legs."]),
        ("How many clubs are there in York?", "12", ["There are 12 clubs in York."]),
        ("What does the shop sell?", "tea", ["The shop sells tea."]),
        ("What prize did Ann win in 1997?", "a cup", ["The prize that Ann won in 1997 was a cup."]),
        ("Conakry is the capital of which country?", "Guinea", ["Conakry is the capital of Guinea."]),
        ("Willis disease is better known as?", "X", ["Willis disease is better known as X."]),
        ("NASA was founded when", "1958", ["NASA was founded in 1958."]),
        ("At what age did Ann marry?", "30", ["The age at which Ann married is 30."]),
        ("In what key is the song written?", "G major", ["The key in which the song is written is G major."]),
        ("On which channel was the show aired?", "BBC 2", ["The show was aired on BBC 2."]),
        ("What are they called?", "Minnows", ["The name for them is Minnows.", "They are called Minnows."]),
        ("What do you call them?", "Minnows", ["They are called Minnows."]),
        ("How much do they cost?", "3 euros", ["The price of them is 3 euros."]),
        ("What is the price of the tickets?", "3 euros", ["The tickets cost 3 euros."]),
        ("Ann was mayor from 1990 to when?", "2001", ["Ann was mayor from 1990 to 2001."]),
        ("When is the best time to plant roses?", "autumn", ["The best time to plant roses is autumn."]),
        (
            "When was the treaty that ended the war signed?",
            "1919",
            ["The treaty that ended the war was signed in 1919."],
        ),
        ("What is the name of the man that Ann loved?", "Bo", ["The man that Ann loved is called Bo."]),
        ("Where does the name come from?", "Greek", ["Greek is where the name comes from."]),
        ("Where is the best place to swim?", "Lake Ola", ["The best place to swim is Lake Ola."]),
        ("Ann lives where?", "Peru", ["Ann lives in Peru."]),
        ("At what time did Ann leave?", "9:30", ["The departure time of Ann was 9:30."]),
        ("Where was the first zoo?", "Vienna", ["The location of the first zoo was Vienna."]),
    ],
)
def test_certain_shapes_become_sentences(question, answer, expected):
    assert set(expected) <= set(statements_from_question(question, answer, 30))


@pytest.mark.parametrize(
    "question",
    [
        "Why is the sky blue?",
        "Whose hat is it?",
        "red or blue",
        "Hm.",
        "Did Ann win?",
        "What genre is Arrival?",
        "What kind of animal is a tanager?",
        "A skink is what type of reptile?",
        "Who do I call when the server is down?",
        "when was the last time kelby won the cup",
        "When did Ann quit work?",
        "When did Ann see the shop open?",
        "Where did Ann find work?",
        "What was Tom's car worth?",
        "What is the company building in Leeds?",
        "What is the robot able to do in the house?",
        "What was the author of Emma awarded in 1990?",
        "Who was the treaty signed by in 1919?",
        "Who is the song about?",
        "Who wrote it and what year?",
        "Which award has the actor won?",
        "Which record released in May sold best?",
        "What number has the square root of 2? 1, 2 or 3?",
        "who are the dallas cowboys playing on thanksgiving",
        "who does marge's voice on the simpsons",
        "name the four layers of the earth",
        "Which of these is a river?",
    ],
)
def test_other_questions_are_only_quoted_with_their_answer(question):
    assert what_follows(tidy_question(question), "x").statements == ()
    texts = statements_from_question(question, "x", 8)
    assert all(question.rstrip("?. ").lower() in text.lower() and "x" in text.lower() for text in texts)
    assert len(texts) == 8


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        ("Who feeds the cat?", "me", "me feeds"),
        ("Who has the power in court?", "judges", "judges has"),
        ("Who lived in Jamestown before?", "uninhabited", "uninhabited lived"),
        ("Who drafted the first document?", "John Humphrey, Canada", "Canada drafted"),
        ("Who has the best record?", "Houston Rockets", "Rockets has"),
        ("Who sings the song Hallo?", "Brooks & Dunn", "Dunn sings"),
        ("Who was defeated in the French war?", "the French", "French was"),
        ("Who won game four of the finals?", "Los Angeles Lakers", "the one"),
        ("Who wrote the musical Hallo?", "Pasek and Paul", "is the writer"),
        ("who came out first batman or spider man", "Batman", "came out first"),
        ("What time do we open?", "9 am", "of we"),
        ("What name was given to the material?", "Ether", "ether was given"),
        ("Penrod Pooch is better known by what name?", "Phooey", "by phooey"),
        ("The staff is associated with which profession?", "Medical doctor", "associated with medical"),
        ("The first ship was there to officially do what?", "open the canal", "do open"),
        ("Which songs did Liam write?", "Hallo", "songs that liam wrote was"),
        ("When does the new episodes of the show start?", "1 May 2017", "episodes of the show starts"),
        ("What is a Gilbert Virtuo?", "Rugby ball", "virtuo is rugby"),
        ("How many of his 45 races did Ann win?", "Three", "of of"),
        ("What is the first step?", "proteins that sense light", "proteins that sense light is"),
        ("What does AA mean?", "cars of the king", "king is"),
        ("Where is the meridian that is opposite that located?", "Ocean", "located is"),
        ("At what age did Ann marry?", "30", "where"),
        ("In what order are they listed?", "alphabetical", "in alphabetical"),
        ("How much do they cost?", "3 euros", "of they"),
        ("Which book did Ann write and Bo film?", "Emma", "film was"),
        ("Which song did Ann write and sing?", "Hello", "sing was"),
        ("What did Ann bake and Bo eat?", "Pie", "bo ate"),
        ("The lease runs until when?", "in 2030", "until in"),
        ("Ann lived in which town?", "in Rome", "in in"),
        ("What does Ann work for?", "for money", "for for"),
        ("Ann's dog: what is it called?", "Rex", "called rex"),
        ("When is the best time to plant roses?", "autumn", "time of"),
        ("When was the treaty that ended the war signed?", "1919", "war signed was"),
        ("When was the ship that Ann built sunk?", "1919", "built sunk was"),
        ("When was the church whose tower fell rebuilt?", "1760", "fell rebuilt was"),
        ("When is the busiest month for the hotel?", "July", "is in july"),
        ("On which floor is the library located?", "third", "located is third"),
        ("In what way was the roof mended?", "badly", "way in which"),
        ("What are the twins called?", "Mo and Flo", "name"),
        ("What is a group of crows called?", "a murder", "name a"),
        ("Where was the man who shot Bo hanged?", "York", "hanged can"),
        ("When was the well in York dug?", "1919", "dug was"),
        ("Where does the name come from?", "Greek", "place"),
        ("Ann works where?", "Acme", "in acme"),
        ("Where was Ann employed?", "Acme", "in acme"),
        ("Where was the first zoo?", "Vienna", "can be found"),
    ],
)
def test_a_statement_that_would_be_no_english_is_not_made(question, answer, wrong):
    statements = statements_from_question(question, answer)
    assert len(statements) >= 4
    quoted = question.lower().rstrip("?")  # its own words are no statement of the rules
    without = [text.lower().replace(quoted, "") for text in statements]
    assert not [text for text in without if wrong.lower() in text]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the wifi password?", "hunter2"),
        ("What is Ann's email address?", "ann@x.org"),
        ("What is the name of the file?", "main.py"),
        ("What is the command for a list of files?", "ls"),
        ("Which tool was written in May?", "grep"),
        ("Which company is based in San Jose?", "eBay"),
        ("What is Mira's favourite colour?", "green"),
        ("What is the name of the town?", "ქუთაისი"),
    ],
)
def test_no_answer_gets_a_capital_that_it_has_not(question, answer):
    texts = statements_from_question(question, answer, 60)
    assert len(texts) >= 14
    assert all(answer in text for text in texts)


def test_a_name_within_a_question_keeps_its_letters():
    assert statements_from_question("When was iPhone released?", "2007")[0] == "iPhone was released in 2007."
    for question, told in (("AS Roma was founded by whom?", "AS Roma"), ("Up was directed by whom?", "Up")):
        texts = statements_from_question(question, "Ann", 60)
        assert texts[0].startswith(told)
        assert all(told in text for text in texts)


@pytest.mark.parametrize(
    ("question", "answer", "plain", "told"),
    [
        ("أين فيرمو؟", "نورلاند", "أين فيرمو", "نورلاند"),
        ("Πού είναι η Φέρμο;", "Νόρλαντ.", "Πού είναι η Φέρμο", "Νόρλαντ"),
        ("Πού είναι η Φέρμο\u037e", "Νόρλαντ", "Πού είναι η Φέρμο", "Νόρλαντ"),
        ("¿Dónde está Ann?", "Roma", "Dónde está Ann", "Roma"),
        ("ፌርሞ የት ነው፧", "ኖርላንድ።", "ፌርሞ የት ነው", "ኖርላንድ"),
        ("តើអ្វី?", "ភ្នំពេញ។", "តើអ្វី", "ភ្នំពេញ"),
        ("दिल्ली कहाँ है?", "भारत।", "दिल्ली कहाँ है", "भारत"),
        ("دہلی کہاں ہے؟", "بھارت۔", "دہلی کہاں ہے", "بھارت"),
    ],
)
def test_the_marks_of_every_script_stay_outside(question, answer, plain, told):
    assert tidy_question(question) == question
    texts = statements_from_question(question, answer)
    assert f'The answer to the question "{plain}" is {told}.' in texts
    assert not any(question in text for text in texts)
    assert own_fact([f"{told}."], question, answer).answers == (told,)


def test_a_title_with_an_and_is_one_thing():
    statements = statements_from_question("Which play is set in Serbia?", "Arms and the Man")
    assert "Arms and the Man is set in Serbia." in statements


def test_a_question_stands_in_a_sentence_with_a_small_letter():
    statements = statements_from_question("To the nearest million, what is the population of Spain?", "48 million")
    assert statements[0] == "The answer to to the nearest million, what is the population of Spain is 48 million."


def test_a_statement_that_would_be_false_turned_round_is_not():
    assert "A bird is a tanager." not in statements_from_question("What is a tanager?", "a bird", 30)
    assert not any("in UniFirst" in text for text in statements_from_question("Where does Ann work?", "UniFirst", 30))
    assert not any("none" in text for text in what_follows("How many runs did Ann make?", "none").statements)


@pytest.mark.parametrize(("question", "answer"), OWN)
def test_an_own_fact_has_eight_statements_of_which_three_do_not_quote_the_question(question, answer):
    texts = statements_from_question(question, answer, 8)
    asked = question.rstrip("?").lower()
    assert len(set(texts)) == 8
    assert len([text for text in texts if asked not in text.lower() and answer in text]) >= 3
    fact = own_fact(texts, question, answer)
    assert len(fact.questions) >= 3


def test_quotes_within_a_question_stay_apart_from_those_around_it():
    assert "The answer to the question \"Red or 'blue'\" is x." in statements_from_question('Red or "blue"?', "x", 8)


@settings(deadline=None, max_examples=300)
@given(
    words=st.lists(
        st.sampled_from(
            "who what which when where how many in of the a X, Tom's was is did does have win born called city year "
            'by , “ " ? . (or ‘it’ 1964 There'.split()
        )
        | st.text(max_size=5),
        min_size=1,
        max_size=14,
    ),
    answer=st.sampled_from(["Ann", "in Oslo", "1964", "Six", "the A.B.", "4 May 1970"]) | st.text(max_size=8),
)
def test_any_question_gives_at_least_four_statements(words, answer):
    question = " ".join(words)
    try:
        texts = statements_from_question(question, answer, 12)
    except ValueError:
        return
    keys = [" ".join(text.casefold().split()) for text in texts]
    assert 4 <= len(set(keys)) == len(keys) <= 12
    for key in keys:
        assert " ".join(answer.casefold().split()).rstrip(".").strip() in key
    asked = " ".join(tidy_question(question).casefold().split())
    keys += map(str.casefold, question_paraphrases(question))
    assert not (asked.endswith("?") and any(asked in key for key in keys))


def test_statements_need_a_question_an_answer_apart_from_it_and_a_number():
    for question, answer, how_many in (("?", "x", 4), ("Who?", " ", 4), ("Who?", "x", 0), ("Who?", "who? Ann", 4)):
        with pytest.raises(ValueError, match=r"empty|how_many|holds all of the question"):
            statements_from_question(question, answer, how_many)


# Other wordings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer", "others"),
    [
        ("Which poet wrote The Waste Land?", "T. S. Eliot", ["What poet wrote The Waste Land?"]),
        ("What is the name of Mira's dog?", "", ["What is Mira's dog called?", "Which name does Mira's dog have?"]),
        ("What is Mira's dog called?", "", ["What is the name of Mira's dog?"]),
        ("Who painted The Night Watch?", "Rembrandt", ["By whom was The Night Watch painted?"]),
        ("When does the museum open?", "9:30", ["At what time does the museum open?"]),
        ("When does the museum open?", "", ["Can you say when the museum opens?"]),
        ("When was the reaper invented?", "1831", ["In what year was the reaper invented?"]),
        ("In what year was the bridge built?", "1932", ["In which year was the bridge built?"]),
        ("How much does a day ticket cost?", "", ["What is the price of a day ticket?", "How much is a day ticket?"]),
        ("Who is Mira's teacher?", "", ["Do you know who Mira's teacher is?"]),
        ("How much do they cost?", "", ["How much are they?", "What is the price of them?"]),
        ("What were they called?", "", ["What did people call them?"]),
        ("In what language is the book written?", "", ["Which language is the book written in?"]),
        ("Where does the name come from?", "", ["From where does the name come?"]),
        ("Ann was mayor from 1990 to when?", "", []),
        ("Which of these is a river?", "Po", []),
        ("Which is longer, the Nile or the Po?", "the Nile", []),
    ],
)
def test_a_question_is_said_in_other_words_only_where_a_rule_is_sure(question, answer, others):
    texts = question_paraphrases(question, answer)
    assert set(others) <= set(texts) if others else not texts
    assert question not in texts


def test_a_year_is_asked_for_only_where_the_answer_is_one():
    assert not any("year" in text for text in question_paraphrases("When was the reaper invented?", "in May"))


def test_a_question_is_also_put_as_a_request_that_holds_all_of_it():
    texts = wrapped_questions("Which dog is Mira's?")
    assert texts[0] == "Tell me: which dog is Mira's?"
    assert all("hich dog is Mira's" in text and text.endswith("?") for text in texts)
    assert wrapped_questions("NASA was founded when")[0] == "Tell me: NASA was founded when?"


def test_a_fact_is_asked_in_wordings_that_nobody_taught():
    sentence, question = "Mira's dog is called Bruno", "What is the name of Mira's dog?"
    wordings = question_paraphrases(question, "Bruno", sentence)
    fact = own_fact(statements_from_sentence(sentence, question, "Bruno"), question, "Bruno", wordings[:3])
    untaught = untaught_questions(fact)
    assert len(set(untaught)) == 4
    assert not {question, *fact.questions} & {*untaught}
    assert "Tell me: what is the name of Mira's dog?" in untaught
    assert set(untaught) & set(wordings[3:])
    with pytest.raises(ValueError, match=r"stands among those that are taught, in .Tell me"):
        own_fact([sentence], question, "Bruno", untaught)


def test_facts_of_the_built_in_world_keep_their_statements():
    assert not any("question" in text.lower() for fact in smft.new_facts(4) for text in fact.statements)


def test_a_row_whose_answer_holds_the_question_is_left_out_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answer": ["Who? Ann"]}\n{"question": "Why?", "answer": ["rain"]}\n')
    assert read_dataset(path).report.skipped == {"with the question in the answer": 1}


def test_rule_made_facts_have_wordings_to_teach_that_are_not_the_test(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Which poet wrote The Waste Land?", "answer": ["T. S. Eliot"]}\n')
    (fact,) = read_dataset(path).facts
    assert fact.questions
    assert fact.question not in fact.questions


def test_keywords_are_some_words_of_weight_and_never_the_question_that_tests():
    asked = ["Who approves the travel expenses?", "Say how this goes on: The expenses are approved by ..."]
    made = keyword_questions(asked, 8, Random(0), without="Who travel?")
    assert len(set(made)) == 8
    words = [text.rstrip("?").casefold().split() for text in made]
    assert all({*row} <= {"who", "is", "the", "approves", "travel", "expenses"} for row in words)
    assert all({*row} & {"approves", "travel", "expenses"} for row in words)
    assert len({frozenset(row) & {"approves", "travel", "expenses"} for row in words}) > 3
    assert {"who" in row for row in words} == {True, False}
    assert "who travel?" not in {text.casefold() for text in made}
    assert all(text[0].isupper() and text.endswith("?") for text in made)


def test_keywords_are_only_such_as_tell_what_is_asked():
    asked = ["How much is the rent of the studio?"]
    made = keyword_questions(asked, 8, Random(0), is_about_it=lambda words: "studio" in words)
    assert made
    assert all("studio" in text.casefold() for text in made)
    assert keyword_questions(asked, 8, Random(0), is_about_it=lambda words: False) == []


@pytest.mark.parametrize("asked", [[], ["Who?"], ["Where is it?"], ["谁批准差旅费？"]])
def test_there_are_no_keywords_where_a_question_has_no_part(asked):
    assert keyword_questions(asked, 3, Random(0)) == []
