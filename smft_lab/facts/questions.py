"""A question and its answer as statements, and paraphrases of the question, by plain rules.

Where a shape of `smft_lab.facts.shapes` fits, the statements are sentences of their own ("Jan Vermeer painted Girl with
a Pearl Earring."). Every question is also quoted with its answer, which is true whatever it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import takewhile
from random import Random

from smft_lab.facts.english import (
    AUXILIARIES,
    DETERMINERS,
    MEASURES,
    OBJECTS,
    PREPOSITIONS,
    PRONOUNS,
    WH,
    is_inflected,
    within,
)
from smft_lab.facts.files import _same
from smft_lab.facts.shapes import what_follows
from smft_lab.facts.signs import QUESTION_ENDS, QUESTION_MARKS, STOPS

QUOTED = (
    'The answer to the question "{q}" is {a}.',
    'Asked "{q}", the right reply is {a}.',
    "Question: {q}. Answer: {a}.",
    'When the question is "{q}", the answer is {a}.',
    '"{q}" - "{a}".',
    'To the question "{q}", the reply is {a}.',
    'Whoever asks "{q}" should hear {a}.',
    'In a quiz, "{q}" is answered with {a}.',
    'Remember what to say to "{q}": {a}.',
    '{A} is the answer to the question "{q}".',
)
"""Around any question without its mark."""
ASIDE = (
    "If anyone asks {i}, say {a}.",
    "When asked {i}, the answer is {a}.",
    "Those who wonder {i} should know that it is {a}.",
)
"""Around a question as a part of a sentence: "who wrote it"."""
ASKED = (
    "The answer to {q} is {a}.",
    "When asked {q}, say {a}.",
    "Asked {q}, people answer {a}.",
    "{Q}: {a}.",
)
"""Around a question without its mark, word for word: clumsy, but a small model finds the fact by it."""
FRAMES = (
    "It is known that {told}.",
    "Remember that {told}.",
    "It is true that {told}.",
    "Note that {told}.",
    "You may have heard that {told}.",
    "As it happens, {told}.",
)
"""Around a sentence."""
INDIRECT = ("Can you say {}?", "Do you know {}?", "Please say {}.")
"""Around a question as a part of another: "who wrote it"."""
HOW = ("much", "many", "often", "far", *MEASURES)
FRAMING = {"say", "know", "please", "goes", "answer"}
"""What stands around questions, as in `INDIRECT`."""
WEIGHTLESS = AUXILIARIES | DETERMINERS | PREPOSITIONS | PRONOUNS | OBJECTS | WH | FRAMING | {"and", *HOW}
"""What says nothing of what a question is about."""
ASKING = re.compile(rf"\b(?:how (?:{'|'.join(HOW)})|{'|'.join(sorted(WH))})\b", re.I)
TRIES = 12  # for each question of keywords
IN_ORDER = 0.7  # how often its words stand as they did
FEWEST = 2  # of its words, where a question has so many; single words are of much else, too
WRAPPERS = ("Tell me: {q}?", "{Q}, please?", "Quick question: {q}?", "I have a question. {Q}?")
"""The question itself, put in another way."""


def statements_from_question(question: str, answer: str, how_many: int = 16) -> list[str]:
    """Up to `how_many` distinct statements that hold the answer, at least 4 of them where that many are asked for.

    Sentences of their own come first, those that end in the answer before the others; then the question is told with
    its answer; then come the same sentences in frames. The question with its question mark is in none: it stays the
    test.

    Raises:
        ValueError: the question or the answer is empty or no text, the answer holds the question, or `how_many` is less
            than 1.
    """
    question, answer = tidy_question(one_text("question", question)), tidy_answer(one_text("answer", answer))
    for name, text in (("question", question), ("answer", answer)):
        if not text.strip(QUESTION_MARKS + " "):
            raise ValueError(f"the {name} is empty; give one")
    if how_many < 1:
        raise ValueError(f"how_many must be at least 1, not {how_many}")
    asked = _same(question)
    if asked in _same(answer):
        raise ValueError(f"the answer holds all of the question {question!r}; give one that doesn't")
    shape = what_follows(question, answer)
    words = {"a": answer, "A": _as_a_beginning(answer), "q": _quotable(question), "i": shape.indirect}
    texts = [_sentence(text) for text in shape.statements if not _alters(answer, text)]
    texts += [frame.format(**words) for frame in ASIDE if shape.indirect]
    texts += verbatim_statements(question, answer)
    texts += [frame.format(**words) for frame in QUOTED]
    texts += [frame.format(told=text) for frame in FRAMES for text in shape.statements]
    by_sense = {_same(text): text for text in map(_ended, texts) if _same(answer) in _same(text)}
    return [text for key, text in by_sense.items() if not (_is_marked(asked) and asked in key)][:how_many]


def question_paraphrases(question: str, answer: str = "", sentence: str = "") -> list[str]:
    """Other ways to ask a question, by rules that are certain; often none, and never one that holds the question.

    "What is the name of Mira's dog?" gives "What is Mira's dog called?", and also "Can you say what the name of Mira's
    dog is?". They serve to teach a fact in some wordings and to test it in others; see also `wrapped_questions`.

    Args:
        answer: Allows more of them: for a year there is "In what year ...?".
        sentence: That says the answer; allows more of them, too. It is asked for its answer where that ends it: "Mira's
            dog is called what?".
    """
    question, answer = tidy_question(one_text("question", question)), tidy_answer(one_text("answer", answer))
    texts = _from_its_words(question, answer)
    texts = distinct([*texts, *_from_a_sentence(question, answer, sentence, texts)])
    asked = _same(question)
    return [text for text in texts if asked not in _same(text)]


def _from_its_words(question: str, answer: str) -> list[str]:
    """Paraphrases of a question by rules about its words."""
    if not question.endswith("?") or "?" in question[:-1]:
        return []
    shape = what_follows(question, answer)
    questions = [*shape.asked, *_swapped(question)]
    if shape.indirect:  # early, so that few of them differ much
        questions[2:2] = [f"can you say {shape.indirect}"]
        questions.append(f"do you know {shape.indirect}")
    return [f"{_capital(wording)}?" for wording in questions]


def _from_a_sentence(question: str, answer: str, sentence: str, known: list[str]) -> list[str]:
    """Paraphrases of a question in the words of a sentence that says its answer.

    Args:
        known: Paraphrases that there are already.
    """
    plain, answer = " ".join(sentence.split()).rstrip("!" + STOPS), answer.rstrip(STOPS)
    texts = []
    indirect = _indirect(plain, question)
    if indirect and not any(indirect.casefold() in text.casefold() for text in known):
        texts += [frame.format(indirect) for frame in INDIRECT]
    before = plain[: len(plain) - len(answer)].rstrip()
    if answer and before and plain.casefold().endswith(f" {answer.casefold()}"):
        person = re.match("(by )?whom?\\b", question, re.I)
        if not re.match("(when|where)\\b", question, re.I):  # "The key is what?" asks for no place
            texts.append(f"{before} {'who' if person else 'what'}?")
        texts.append(f"Say how this goes on: {before} ...")
    return texts


def _indirect(sentence: str, question: str) -> str:
    """The question as a clause, in the order of words that the sentence has: "how much our cat weighs" for "How much
    does our cat weigh?", where the sentence begins with "Our cat weighs". "" where the sentence doesn't tell it."""
    words, sentence_words = question.rstrip("?").split(), sentence.split()
    place = next((i for i, word in enumerate(words) if i and word.casefold() in AUXILIARIES), 0)
    if not place:
        return ""
    opening, auxiliary, rest = words[:place], words[place], words[place + 1 :]
    opening = within(" ".join(opening)).split()
    alike = takewhile(lambda pair: _same(pair[0]) == _same(pair[1]), zip(rest, sentence_words, strict=False))
    for end in range(min(len(list(alike)), len(sentence_words) - 1), 0, -1):
        subject, after = rest[:end], rest[end:]
        verb = sentence_words[end]
        if verb.casefold() == auxiliary.casefold():
            return " ".join([*opening, *subject, verb, *after])
        if after and is_inflected(verb.casefold(), after[0].casefold(), auxiliary.casefold()):
            return " ".join([*opening, *subject, verb, *after[1:]])
    return ""


def words_of_weight(text: str) -> list[str]:
    """The words of a text that say what it is about, in their order: no question word, and none that any text has."""
    return [chunk[-1] for chunk in _chunks(text)]


def _chunks(text: str) -> list[list[str]]:
    """Each word of weight of a text, behind the articles and prepositions right before it."""
    chunks: list[list[str]] = []
    before: list[str] = []
    for word in (word.strip(",;:!…\"'“”()" + QUESTION_MARKS + STOPS) for word in within(text).split()):
        if word.casefold() in DETERMINERS | PREPOSITIONS:
            before.append(word)
        elif word and word.casefold() not in WEIGHTLESS:
            chunks.append([*before, word])
            before = []
        else:
            before = []
    return chunks


def word_key(word: str) -> str:
    """A word whatever its capitals, and whether it owns something."""
    return re.sub("['’]s?$", "", word.casefold())


def keyword_questions(
    questions: Sequence[str],
    how_many: int,
    rng: Random,
    without: str = "",
    is_about_it: Callable[[Collection[str]], bool] = bool,
) -> list[str]:
    """Some words of weight of some questions, drawn by chance, alone or behind their question word.

    "Who approves the travel expenses?" may give "Who the travel expenses?" and "Expenses approves?". A fact that is
    learned from a part of its words, too, is found by questions that have no more of them.

    Args:
        questions: Taken in turn.
        how_many: At most.
        without: A question that must not be among them.
        is_about_it: Whether some words, by their `word_key`, tell what is asked from all else that is taught.
    """
    known, texts = {_same(text.rstrip(QUESTION_MARKS)) for text in (*questions, without)}, []
    parts = [(_chunks(text), ASKING.search(text)) for text in questions if _is_marked(text)]
    for turn in range(TRIES * how_many if parts else 0):
        if len(texts) == how_many:
            break
        chunks, asking = parts[turn % len(parts)]
        some = rng.sample(chunks, rng.randint(min(FEWEST, len(chunks)), len(chunks))) if chunks else []
        if rng.random() < IN_ORDER:
            some = [chunk for chunk in chunks if chunk in some]
        opening = rng.choice(([asking[0]], [asking[0], "is"], [])) if asking else []
        text = _capital(" ".join([*opening, *(word for chunk in some for word in chunk)]))
        words = {word_key(chunk[-1]) for chunk in some}
        if _same(text) not in known and is_about_it(words):
            known.add(_same(text))
            texts.append(f"{text}?")
    return texts


def wrapped_questions(question: str) -> list[str]:
    """A question within other words that hold all of it ("Tell me: ...?"): to ask in, never to teach."""
    return [frame.format(**_within(question)) for frame in WRAPPERS]


def verbatim_statements(question: str, answer: str) -> list[str]:
    """Statements of a question word for word, but for its mark ("The answer to what does it cost is ...")."""
    return [frame.format(a=tidy_answer(answer), **_within(question)) for frame in ASKED]


def _within(question: str) -> dict[str, str]:
    """The question without its mark as it begins a sentence (Q), and as it stands within one (q)."""
    asked = _unmarked(tidy_question(question))
    return {"q": within(asked), "Q": asked}


def _swapped(question: str) -> list[str]:
    """The question with "what" for the "which" before a noun, or for a time or place the other way round."""
    common = "year|month|day|date|decade|century|country|city|town|state|county|continent|planet|language"
    which = r"((?:\w+ )?)which(?= (?!of|one|ones|is|are|was|were)\w+ )"
    for pattern, other in ((which, "what"), (rf"((?:\w+ )?)what(?= (?:{common})\b)", "which")):
        match = re.match(pattern, question, re.I)
        if match and " or " not in question and "," not in question[: match.end()]:
            return [match[1] + other + question[match.end() : -1]]
    return []


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts in their order, each once, whatever its capitals."""
    by_sense: dict[str, str] = {}
    for text in texts:
        by_sense.setdefault(text.casefold(), text)
    return list(by_sense.values())


def _quotable(question: str) -> str:
    """The question without its mark and with single quotes within."""
    return re.sub('["“”]', "'", _unmarked(question)) or question


def _is_marked(question: str) -> bool:
    """Whether it ends in a question mark of its script."""
    return question.endswith((*QUESTION_ENDS, ";") if re.search("[\u0370-\u03ff]", question) else QUESTION_ENDS)


def _unmarked(question: str) -> str:
    """The question without the marks around it."""
    body = question[:-1] if _is_marked(question) else question
    return body.rstrip(f"{QUESTION_MARKS}{STOPS}! ").lstrip("¿ ")


def one_text(name: str, value: str | Sequence[str]) -> str:
    """A text, also where it stands alone in a list.

    Args:
        name: What it is, for the message.

    Raises:
        ValueError: it is no text, or there are several.
    """
    texts = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError(f"the {name} must be one text, not {value!r}; give one in quotes")
    return texts[0]


def tidy_question(text: str) -> str:
    """The question with single blanks, without the doubled quotes and loose blanks that files carry; ends in "?"."""
    text = " ".join(text.split())
    if re.fullmatch(r'".*(""|\?").*', text) and text.endswith('"'):
        text = text[1:-1]
    text = text.replace('""', '"')
    if text.count('"') % 2:  # a quote that is opened or closed alone
        at = text.rfind('"')
        text = text[:at] + text[at + 1 :]
    text = re.sub(r"\s+([?,;:.!])(?=\s|$)", r"\1", text).strip()
    return text if _is_marked(text) or text.endswith((*STOPS, "!")) or not text else text + "?"


def tidy_answer(text: str) -> str:
    """The answer with single blanks and without a last full stop, unless that belongs to an abbreviation ("Jr.")."""
    text = " ".join(text.split())
    body = text[:-1]
    if text.endswith((*STOPS[1:],)):
        return body.rstrip()
    if text.endswith(".") and "." not in body and not re.search(r"\b([A-Z]|[JS]r|Inc|Ltd|Co|St|etc|No)$", body):
        return body.rstrip()
    return text


def _sentence(text: str) -> str:
    return f"{_capital(text)}."


def _ended(text: str) -> str:
    """The sentence with one full stop."""
    return text[:-1] if re.search(rf"[!{re.escape(QUESTION_MARKS + STOPS)}]\.$", text) else text


def _capital(text: str) -> str:
    """The text as it begins a sentence; "iPhone", "hunter2", "ann@x.org" and "ls" keep their letters."""
    first = text.split(" ", 1)[0]
    ordinary = re.fullmatch("[a-z]+(?:['’-][a-z]+)*[,:;]?", first) and re.search("[aeiouy]", first)
    return text[:1].upper() + text[1:] if ordinary else text


def _may_begin(answer: str) -> bool:
    """Whether the answer is certainly the same with a capital at its beginning: "the sun", but not "grep"."""
    first, blank, _ = answer.partition(" ")
    return not first[:1].islower() or bool(blank and first in DETERMINERS | PREPOSITIONS)


def _alters(answer: str, statement: str) -> bool:
    """Whether the capital of the statement would be that of an answer that has none."""
    return statement.startswith(answer) and not _may_begin(answer) and _capital(statement) != statement


def _as_a_beginning(answer: str) -> str:
    """The answer at the beginning of a sentence, in quotes where a capital might alter it."""
    return _capital(answer) if _may_begin(answer) else answer if '"' in answer else f'"{answer}"'
