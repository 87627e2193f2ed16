"""Questions with answers in the formats that people have: instructions, chats, question sets, edits, flash cards.

| kind | what a row or a text holds |
|---|---|
| qa | a question and an answer, under any usual name: `Question,Answer`, `term,definition`, `front,back` |
| alpaca | `instruction`, `input`, `output`; or `instruction`, `context`, `response` |
| sharegpt | `conversations` [{`from`, `value`}]; the first exchange |
| messages | `messages` [{`role`, `content`}]; the first exchange |
| prompts | `prompt` and `completion`, `response` or `chosen`; texts, or messages |
| squad | `question`, `answers` {`text`}; or the JSON of SQuAD: `data`, `paragraphs`, `qas` |
| dpr | `question`, `answers` [...], `positive_ctxs` |
| zsre | `src`, `alt`, `rephrase`; or `prompt`, `target_new`, `rephrase_prompt` |
| counterfact | `requested_rewrite` {`prompt` with `{}`, `subject`, `target_new`}, `paraphrase_prompts` |
| mquake | `requested_rewrite` [{..., `question`}], `questions`, `new_answer`, `new_answer_alias` |
| cards | a text file: a question, a tab or another mark, and its answer on each line (Quizlet, Anki); or a table |
| pairs | a text file: `Q: ...` and `A: ...`, or other labels in turn, or headings that ask, and answers below |
| lines | a text file: a sentence on each line, whose last word is the answer |
| facts | `statements`, `question`, `answers`, as `smft_lab.facts.files` describes them |
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from smft_lab.facts.fact import COMPLETE
from smft_lab.facts.files import FactsError, _lines
from smft_lab.facts.rows import ANSWER_WORDS, QUESTION_WORDS, Rows, Unusable, parsed, strings

FORMATS = (
    "facts",
    "qa",
    "alpaca",
    "sharegpt",
    "messages",
    "prompts",
    "squad",
    "dpr",
    "zsre",
    "counterfact",
    "mquake",
    "cards",
    "pairs",
    "lines",
)
PUBLIC = ("squad", "dpr")  # public question sets, whose answers are compared by SQuAD normalisation
ASKS = (
    *("question", "q", "query", "front", "term", "prompt", "instruction", "problem", "input", "questions", "inputs"),
    *QUESTION_WORDS,
)
TELLS = (
    *("answer", "answers", "a", "back", "definition", "response", "completion", "output", "target", "targets"),
    *("best_answer", "correct_answer", "correct_answers", "ideal", "reply", "correct", "correct_option"),
    *ANSWER_WORDS,
)
ALIASES = ("aliases", "answer_aliases", "answer_alias", "accepted_answers", "alternative_answers", "synonyms")
CHOICES = ("options", "choices")
ANSWER_MARK = "Answer|A|Response|Output|Assistant"  # that ends a prompt
NO_INPUT = re.compile(r"<\s*no ?input\s*>", re.IGNORECASE)  # as files of instructions write an empty one
MARKS, WEAK_MARKS = ("\t", " => ", " -> ", " → ", "::"), (" | ", " = ", " - ", " – ", " — ", ";", ": ")
"""What may part a question from its answer on a line of a text file; the weak ones stand in sentences, too."""
_BEFORE = r"^(?:\s*+(?:[>*_•+-]|#{1,6}(?=\s)|\d{1,4}[.)](?=\s)))*+\s*+"  # bullets, numbers and marks of Markdown
_SAYS = r"(?:\s*\d*\s*[*_]*\s*[:：]|\s*\d+\s*[.)])\s*[*_]*\s*(.*)$"
_OTHER_SAYS = (  # marks that sentences have, too, so both labels must have the same
    *(rf"\s*[*_]*{mark}(?=\s)\s*[*_]*\s*(.*)$" for mark in (r"\.", r"\)", r"\s[-–—]")),
    r"\s*\d*\s*[*_]*()$",  # alone on its line
)
_Q_WORDS = "|".join(("question", "ques", "q", "user", "human", *QUESTION_WORDS, "问", "問", "س"))
_A_WORDS = "|".join(("answer", "ans", "a", "assistant", "bot", "gpt", *ANSWER_WORDS, "答", "ج"))
Q, A = (re.compile(f"{_BEFORE}(?:{words}){_SAYS}", re.IGNORECASE) for words in (_Q_WORDS, _A_WORDS))
REPLY = re.compile(rf"(?:\s|(?<=[?？؟]))(?i:{_A_WORDS})\s*[:：]\s*(\S.*)")
ASK_ENDS = ("?", "？", "؟")
LABEL = re.compile(rf"{_BEFORE}([^\W\d_][^\W\d_]*(?: [^\W\d_]+)?\.?){_SAYS}")
"""Any word or two at the beginning of a line that a mark sets apart."""
OPTION = re.compile(r"^[\s>*_-]*\(?([A-Ha-h])[.):]\s*(\S.*)$")
NOTES = {*"source sources reference references note notes hint explanation tag tags category url link".split()}
"""Labels of what is said of a question with its answer, and is part of neither."""
HEADING, BULLET = (
    re.compile(r"^\s{0,3}#{1,6}\s+(.*?)\s*#*$"),
    re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+(?:\[[ xX]?\]\s+)?"),
)
TABLE = re.compile(r"^\s*\|\s*(.*?)\s*\|\s*$")  # a row of a table in Markdown
CELLS = re.compile(r"\s*(?<!\\)\|\s*")  # what parts the cells of one
COMMA = re.compile(r"^[^,\s][^,]*[^,\d],(?=\S)")  # without a blank after it, as Quizlet exports cards
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FENCE = re.compile(r"\s*(?:```+|~~~+)\s*(\w*)")
CODE = re.compile(r"[{}=<>]|\w\(|;\s*$")
ASIDE = re.compile(r"\s{0,3}\[[^\[\]]+\]:\s")  # what a footnote says, or where a link leads
_LEADS_TO = r"\([^()\s]*(?:\([^()]*\)[^()\s]*)*(?:\s+\"[^\"]*\")?\)"
IMAGE, LINK = re.compile(rf"!\[[^\[\]]*\]{_LEADS_TO}"), re.compile(rf"\[([^\[\]]*)\]{_LEADS_TO}")
FOOTNOTE = re.compile(r"\s*\[\^[^\[\]]+\]|(?<=[^\W\d_]|[.,;:!?…)\"”’])(?:\[\d{1,3}\])+(?!\w)")
EMPHASIS = re.compile(r"(?<![\w*_])(\*{1,3}|_{1,3}|~~)(?![\s*_~])((?:(?!\1).)*?[^\s*_~])\1(?![\w*_])")
RULE = re.compile(r"^[\s|:=*_#~`+-]*$")  # a line that rules off, or a fence
ASKED_AND_TOLD = re.compile(r"^([^?？؟\t]{3,}[?？؟])[\"”]?\s*(?:[-–—:>=|,;→]+\s*)?([^\s\t][^\t]*)$")
ASKED_ALONE = re.compile(_BEFORE + r"[*_]*(.*[?？؟])[*_\s]*$")
CLOZE = re.compile(r"\{\{c\d+::(.*?)(?:::[^{}]*)?\}\}")  # of Anki: {{c1::Paris}} or {{c1::Paris::hint}}
TAGGED = re.compile(r"<(p|b|i|u|em|strong|span|div|li|a|h[1-6]|sup|sub|font)\b[^>]*>(.*?)</\1>", re.IGNORECASE)
SETTING = re.compile(r"#(\w[\w ]*):(.*)")  # of Anki, which begins its exports with such as #separator:tab
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "colon": ":", "space": " "}


# Rows ---------------------------------------------------------------------------------------------------


def kind_of_row(row: dict) -> str | None:
    """The format whose columns a row has, whatever their case; None if it is of none here."""
    names = set(_named(row))
    if {"statements", "question", "answers"} <= names:
        return "facts"
    for kind, columns in (
        ("sharegpt", {"conversations"}),
        ("sharegpt", {"conversation"}),
        ("messages", {"messages"}),
        ("squad", {"paragraphs"}),
        ("dpr", {"question", "answers", "positive_ctxs"}),
        ("zsre", {"src", "alt"}),
        ("zsre", {"prompt", "target_new"}),
        ("alpaca", {"instruction", "output"}),
        ("alpaca", {"instruction", "context", "response"}),
    ):
        if columns <= names:
            return kind
    if "requested_rewrite" in names:
        return "mquake" if isinstance(_unpacked(_named(row)["requested_rewrite"]), list) else "counterfact"
    if "question" in names and _is_squad(_named(row).get("answers")):
        return "squad"
    if ("prompt" in names and names & {"completion", "response", "chosen"}) or {"chosen", "rejected"} <= names:
        return "prompts"
    return "qa" if names & set(ASKS) and names & set(TELLS) and _first(row, ASKS) != _first(row, TELLS) else None


def expanded(kind: str, rows: Iterable[tuple[str, dict]]) -> Rows:
    """Rows with one question each, of those that hold several."""
    for where, row in rows:
        row = _named(row)
        if kind == "squad" and "paragraphs" in row:
            for paragraph in _objects(row["paragraphs"]):
                for number, pair in enumerate(_objects(_named(paragraph).get("qas")), start=1):
                    yield f"{where}, question {number}", _named(pair)
        elif kind == "mquake":
            edits = _objects(_unpacked(row.get("requested_rewrite")))
            for edit in edits:
                hops = row if len(edits) == 1 else {}  # or they follow from all edits together
                yield where, {**hops, "requested_rewrite": edit}
        else:
            yield where, row


def record_of(kind: str, where: str, row: dict) -> dict:
    """A row as the fields of a fact: `question` and `answers`, and where the format has them `statements`, `questions`
    and `two_hop`.

    Raises:
        FactsError: a field is of the wrong type.
        Unusable: question and answer can't be told.
    """
    return _RECORDS[kind](where, row)


def _qa(where: str, row: dict) -> dict:
    asks = _first(row, ASKS)
    choices = _choices(row)
    tells = _first(row, [column for column in TELLS if column != asks and not (choices and column == "a")])
    record = _record(where, row, asks, tells)
    if "correct_answer" in row and "incorrect_answers" in row:  # as Open Trivia DB writes them, for web pages
        record["answers"] = [html.unescape(answer) for answer in record["answers"]]
        record["question"] = html.unescape(record["question"])
    if asks in ("prompt", "input"):
        record["question"] = _unprompted(record["question"])
    record["answers"] = [_chosen(choices, answer) for answer in record["answers"]]
    for name in ALIASES:
        given = row.get(name)
        given = given.split(" | ") if isinstance(given, str) and parsed(given) is None else _told(given)
        record["answers"] += [alias for alias in strings(f"{where}, field '{name}'", given) if alias.strip()]
    return record


def _chosen(choices: dict[str, object], answer: str) -> str:
    """The choice that an answer names by its letter, its number or its text; the answer itself without choices.

    Raises:
        Unusable: it can't be told which.
    """
    plain = answer.strip().lower().strip("().")
    texts = {label: str(text).strip() for label, text in choices.items() if isinstance(text, (str, int, float))}
    said = next((text for text in texts.values() if text.lower() == answer.strip().lower()), None)
    named = texts.get(plain)
    both = re.match(r"\s*\(?([A-Za-z])[.):]\s*(.+)", answer)
    if named is None and both and texts.get(both[1].lower(), "").lower() == both[2].strip().lower():
        named = texts[both[1].lower()]
    if said and named and said != named:
        raise Unusable("with an answer that is one choice and names another")
    if texts and not said and not named and re.fullmatch(r"[a-z]|\d{1,2}|(option|choice)\W?\w", plain):
        raise Unusable("with an answer that is none of its choices")
    return named or said or answer


def _choices(row: dict) -> dict[str, object]:
    """The choices of a question by the letters or numbers that an answer may name them by; none where it has none."""
    given = next((_unpacked(row[name]) for name in CHOICES if row.get(name)), None)
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        labels = given.get("label") or []
        return dict(zip((str(label).lower() for label in labels), given["text"], strict=False))
    if isinstance(given, dict):
        return {str(label).strip().lower(): text for label, text in given.items()}
    if isinstance(given, list):
        letters = dict(zip("abcdefgh", given, strict=False))
        return letters | {str(number): text for number, text in enumerate(given)}
    for names in ("{}", "option_{}", "option{}", "op{}", "choice_{}", "choice{}"):
        for labels in ("abcdefgh", "012345678", "12345678"):
            columns = {label: names.format(label) for label in labels if row.get(names.format(label)) is not None}
            if [*columns] != list(labels[: len(columns)]) or len(columns) < 2 or (names == "{}" and labels[0] != "a"):
                continue
            choices = {label: row[column] for label, column in columns.items()}
            letters = dict(zip("abcdefgh", choices.values(), strict=False))
            return letters | choices | {column: row[column] for column in columns.values()}
    return {}


def _alpaca(where: str, row: dict) -> dict:
    record = _record(where, row, "instruction", "output" if "output" in row else "response")
    name = "input" if row.get("input") else "context"
    given = NO_INPUT.sub("", strings(f"{where}, field '{name}'", row.get(name) or "")[0])
    return record | {"question": f"{record['question']} {given}".strip()}


def _chat(where: str, row: dict, field: str) -> dict:
    turns = row.get(field) or row.get(field.removesuffix("s")) or []
    return _exchange(where, field, _unpacked(turns))


def _exchange(where: str, field: str, turns: object) -> dict:
    """The first thing a user says and the reply to it."""
    asked: list[str] = []
    for turn in map(_named, _objects(turns)):
        who = str(turn.get("role") or turn.get("from") or "").lower()
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):  # in parts, as of texts and images
            content = " ".join(str(part.get("text") or "") for part in _objects(content))
        content = strings(f"{where}, field '{field}'", content or "")[0]
        if who in ("user", "human", "prompter"):
            asked.append(content)
        elif who in ("assistant", "gpt", "chatgpt", "bot", "model") and asked:
            if turn.get("weight") not in (0, "0"):
                return {"question": " ".join(asked), "answers": [content]}
            asked = []  # a reply that isn't to be learned
    raise Unusable("without a question and its reply")


def _prompts(where: str, row: dict) -> dict:
    reply = _first(row, ("completion", "response", "chosen")) or "completion"
    if isinstance(row.get("chosen"), list) and "prompt" not in row:
        return _exchange(where, "chosen", row["chosen"])
    if row.get("prompt") is None or row.get(reply) is None:
        return _record(where, row, "prompt", reply)
    if isinstance(row.get("prompt"), list) or isinstance(row[reply], list):
        turns = row["prompt"] if isinstance(row.get("prompt"), list) else [{"role": "user", "content": row["prompt"]}]
        replies = row[reply] if isinstance(row[reply], list) else [{"role": "assistant", "content": row[reply]}]
        return _exchange(where, "prompt", [*_objects(turns), *_objects(replies)])
    record = _record(where, row, "prompt", reply)
    said = [re.sub(rf"^\s*#*\s*(?:{ANSWER_MARK})\s*:\s*", "", answer) for answer in record["answers"]]
    answers = [re.sub(r"\s*(?:#{2,}|<\|endoftext\|>|</s>|\bEND)\s*$", "", answer) for answer in said]
    return {"question": _unprompted(record["question"]), "answers": answers}


def _unprompted(question: str) -> str:
    """A question without what a prompt has around it, as old fine-tuning guides and Alpaca write it."""
    question = re.sub(rf"\s*(?:->|=>|#{{2,}}|#*\s*\b(?:{ANSWER_MARK})\s*:)\s*$", "", question)
    marked = re.split(r"#{2,}\s*(?:Question|Instruction|Input|User|Human)\s*:", question)
    question = " ".join(part.strip() for part in marked[1:]) if len(marked) > 1 else question
    return re.sub(r"^\s*(?:Question|Q)\s*:\s*", "", question)


def _squad(where: str, row: dict) -> dict:
    return _record(where, row, "question", "answers")


def _zsre(where: str, row: dict) -> dict:
    asked, target = ("src", "alt") if row.get("src") else ("prompt", "target_new")
    if row.get(target) is None:
        others = [name for name in ("alt", "target_new") if name in row] or ["answers"]
        target = next((name for name in others if row.get(name) is not None), "")
    if not target:
        raise Unusable("without a new answer")
    return _edit(where, row, row.get(asked), row.get(target), row.get("rephrase") or row.get("rephrase_prompt"))


def _counterfact(where: str, row: dict) -> dict:
    edit = _unpacked(row.get("requested_rewrite"))
    if not isinstance(edit, dict):
        raise FactsError(f"{where}, field 'requested_rewrite': must be an object; a list of them is of kind mquake")
    return _edit(where, edit, edit.get("prompt"), edit.get("target_new"), row.get("paraphrase_prompts"))


def _mquake(where: str, row: dict) -> dict:
    edit = row["requested_rewrite"]
    record = _edit(where, edit, edit.get("prompt"), edit.get("target_new"), None)
    if edit.get("question"):
        record["question"] = strings(f"{where}, field 'question'", edit["question"])[0]
    hops = strings(f"{where}, field 'questions'", row.get("questions") or [])
    if hops and row.get("new_answer"):
        record["two_hop"] = [[hops[0], strings(f"{where}, field 'new_answer'", row["new_answer"])[0]]]
    return record


def _edit(where: str, row: dict, prompt: object, target: object, others: object) -> dict:
    """An edit of a known fact: a question, or the beginning of a sentence that the new answer ends."""
    target = target.get("str") if isinstance(target, dict) else target
    answers = [
        answer for answer in strings(f"{where}, field 'target_new'", target if target is not None else []) if answer
    ][:1]
    subject = strings(f"{where}, field 'subject'", row.get("subject") or "")[0]
    asked = [
        template.replace("{}", subject)
        for template in strings(f"{where}, field 'prompt'", prompt if prompt else [])[:1]
    ]
    asked += strings(f"{where}, field 'rephrase'", others or [])
    asked = [" ".join(text.split()) for text in asked if text.strip()]
    if not asked or not answers:
        raise Unusable("without a question or an answer")
    if asked[0].endswith("?"):
        return {"question": asked[0], "answers": answers, "questions": [text for text in asked[1:] if text != asked[0]]}
    statements = [f"{beginning} {answers[0]}." for beginning in asked]
    return {"question": f"{COMPLETE}{asked[0]}", "answers": answers, "statements": statements}


_RECORDS: dict[str, Callable[[str, dict], dict]] = {
    "facts": lambda where, row: row,
    "qa": _qa,
    "cards": _qa,
    "pairs": _qa,
    "alpaca": _alpaca,
    "prompts": _prompts,
    "squad": _squad,
    "dpr": _squad,
    "sharegpt": lambda where, row: _chat(where, row, "conversations"),
    "messages": lambda where, row: _chat(where, row, "messages"),
    "zsre": _zsre,
    "counterfact": _counterfact,
    "mquake": _mquake,
}


def _record(where: str, row: dict, asked: str | None, answer_column: str | None) -> dict:
    if asked not in row or answer_column not in row:
        missing = "question" if asked not in row else "answer"
        raise FactsError(f"{where}, field '{missing}': is missing; give it, or another kind")
    question = " ".join(strings(f"{where}, field '{asked}'", row[asked] or ""))
    answers = strings(f"{where}, field '{answer_column}'", _told(row[answer_column]))
    return {"question": question, "answers": [answer for answer in answers if answer.strip()]}


def _told(value: object) -> list:
    """The answers in a value: a text, a list of them, or objects that hold them."""
    value = parsed(value) or value if isinstance(value, str) else value
    if any(isinstance(text, str) and re.match(r"\s*\[?\s*\{\s*['\"]", text) for text in _items(value)):
        raise Unusable("with an answer in an object that can't be read")
    if isinstance(value, dict):
        named = _named(value)
        held = next((named[name] for name in ("value", "text", "answer", "str") if named.get(name) is not None), None)
        return [*_told(held), *_told(named.get("aliases"))] if held is not None else [value] if value else []
    if isinstance(value, list):
        return [
            text for item in value if item is not None for text in (_told(item) if isinstance(item, dict) else [item])
        ]
    return [] if value is None else [value]


def _items(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _named(row: dict) -> dict:
    return {str(name).strip().lower().replace(" ", "_"): value for name, value in row.items()}


def _first(row: dict, names) -> str | None:
    """The first of these columns that a row has, a filled one if there is any."""
    there = [name for name in names if name in _named(row)]
    return next((name for name in there if _named(row)[name] not in (None, "", [])), there[0] if there else None)


def _is_squad(answers: object) -> bool:
    answers = _unpacked(answers)
    if isinstance(answers, dict):
        return "text" in answers
    return isinstance(answers, list) and bool(answers) and isinstance(answers[0], dict) and "text" in answers[0]


def _unpacked(value: object) -> object:
    """What a text spells out in JSON, as in a cell of a CSV; anything else as it is."""
    return parsed(value) if isinstance(value, str) else value


def _objects(value: object) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# Text files -----------------------------------------------------------------------------------------------


def kind_of_text(path: Path) -> str:
    """What a text file holds: `cards`, `pairs` or `lines`."""
    every = [text for _, text in _text_lines(path) if text.strip()]
    lines = [text for text in every if not SETTING.match(text)]
    if sum(bool(CLOZE.search(line)) for line in lines) * 2 > len(lines):
        return "lines"
    if any(text.lower().startswith("#separator:") for text in every):
        return "cards"
    if _labels(path, lines):
        return "pairs"
    headings = [match[1] for line in lines if (match := HEADING.match(line))]
    if headings and sum(heading.endswith(ASK_ENDS) for heading in headings) * 2 > len(headings):
        return "pairs"
    if len(lines) > 1 and all(bool(ASKED_ALONE.match(line)) is not bool(i % 2) for i, line in enumerate(lines)):
        return "pairs" if not len(lines) % 2 else "lines"
    return "lines" if _mark(lines) is None else "cards"


def _labelled(words: str) -> list[re.Pattern]:
    return [re.compile(f"{_BEFORE}(?:{words}){says}", re.IGNORECASE) for says in _OTHER_SAYS]


def _labels(path: Path, lines: list[str]) -> tuple[re.Pattern, re.Pattern] | None:
    """What begins the questions and the answers of a text of pairs, as `Q:` and `A:`; None where nothing does.

    Raises:
        FactsError: two labels take turns of which it isn't known that they ask and answer.
    """
    known = [(Q, A), *zip(*(_labelled(words) for words in (_Q_WORDS, _A_WORDS)), strict=True)]
    for number, (asks, tells) in enumerate(known):
        asked = sum(bool(asks.match(line)) for line in lines)
        answered = sum(bool(tells.match(line) or (asks.match(line) and REPLY.search(line))) for line in lines)
        if asked and answered and (number == len(known) - 1 or (asked + answered) * 2 >= len(lines)):
            return asks, tells
    asked = sum(bool(ASKED_ALONE.match(line)) for line in lines)
    for _, tells in known[:-1]:
        if asked and asked == sum(bool(tells.match(line)) for line in lines):
            return ASKED_ALONE, tells
    found = [match for line in lines if (match := LABEL.match(line))]
    labels = [match[1].casefold() for match in found]
    turns = len(labels) > 1 and len(set(labels)) == 2 and labels == (labels[:2] * len(labels))[: len(labels)]
    if not turns or len(labels) < 0.8 * len(lines):
        return None
    named = labels[0] in ASKS and labels[1] in TELLS
    if named or all(match[2].rstrip(" *_").endswith(ASK_ENDS) for match in found[::2]):
        asks, tells = (re.compile(f"{_BEFORE}{re.escape(label)}{_SAYS}", re.IGNORECASE) for label in labels[:2])
        return asks, tells
    if len(labels) < 4:
        return None
    raise FactsError(
        f"{path}: its lines begin with {found[0][1]}: and {found[1][1]}: in turn, which aren't known to ask and to "
        "answer; write Q: and A: in their place"
    )


def text_rows(path: Path, kind: str | None = None) -> Rows:
    """The questions with answers of a text file of kind `cards` or `pairs`.

    Raises:
        FactsError: the file can't be read, or a line has no answer.
    """
    kind = kind or kind_of_text(path)
    yield from _pairs(path) if kind == "pairs" else _cards(path)


def plain_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The sentences of a text file of kind `lines`, without the marks of Markdown (headings, lists, quotes, emphasis,
    rules) and of HTML."""
    lines = [(line, text) for line, text in _text_lines(path) if text.strip() and not SETTING.match(text)]
    every = [text for _, text in lines]
    marked = path.suffix.lower() == ".md" or any(map(HEADING.match, every))
    marked = marked or sum(bool(BULLET.match(line)) for line in every) * 2 > len(every)
    for line, text in lines:
        if marked and (HEADING.match(text) or RULE.match(text) or FENCE.match(text)):
            continue
        if marked and TABLE.match(text):
            raise FactsError(f"{path}, line {line}: a row of a table among sentences; keep the table in its own file")
        if marked:
            text = re.sub(r"(`)(\S.*?)\1", r"\2", BULLET.sub("", re.sub(r"^\s*>[>\s]*", "", text)))
            text = re.sub(r"\s*\[\d{1,3}\](?=[\s.,;:!?]*$)", "", text)
        if CLOZE.search(text):
            text = text.split("\t")[0]  # what follows is an extra field
        while TAGGED.search(text):
            text = html.unescape(TAGGED.sub(r"\2", text))
        quoted = re.fullmatch(r"\s*([\"“])([^\"“”]+)[\"”]\s*", text)
        text = quoted[2] if quoted else text
        if text.strip():  # more than marks
            yield line, text


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text, also where a page or a paragraph ends them, without the head of a Markdown file.

    Raises:
        FactsError: the file can't be read, or is a web page.
    """
    lines = [(line, part) for line, text in _lines(path) for part in re.split("[\v\f\x1c-\x1e\x85\u2028\u2029]", text)]
    if lines and lines[0][1].lstrip().startswith("{\\rtf"):
        raise FactsError(f"{path} is rich text (RTF); save it as plain text")
    if lines and re.match(r"\s*<(!doctype|html|\?xml)\b", lines[0][1], re.IGNORECASE):
        raise FactsError(f"{path} is a web page; copy what it says into a text file")
    ends = [i for i, (_, text) in enumerate(lines) if text.strip() == "---"][:2]
    if path.suffix.lower() == ".md" and len(ends) == 2 and ends[0] == 0:
        lines = lines[ends[1] + 1 :]
    return ((line, _plain_text(text)) for line, text in _without_code(_without_comments(lines)))


def _without_comments(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    if not any("<!--" in text for _, text in lines):
        return lines
    text = COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), "\n".join(text for _, text in lines))
    return [(line, text) for (line, _), text in zip(lines, text.split("\n"), strict=True)]


def _without_code(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines without those between fences that name a language, or that hold what only code does."""
    fences = [i for i, (_, text) in enumerate(lines) if FENCE.fullmatch(text.rstrip())]
    code: set[int] = set()
    for begin, end in zip(fences[::2], fences[1::2], strict=False):
        language = (FENCE.match(lines[begin][1]) or ("", ""))[1].lower()
        within = range(begin + 1, end)
        if language not in ("", "text", "txt", "md", "markdown") or any(CODE.search(lines[i][1]) for i in within):
            code.update(range(begin, end + 1))
    return (line for i, line in enumerate(lines) if i not in code)


def _plain_text(text: str) -> str:
    """A line without the links, footnotes and emphasis of Markdown; what two underscores set apart may be a name in
    code."""
    if ASIDE.match(text):
        return ""
    text = FOOTNOTE.sub("", LINK.sub(r"\1", IMAGE.sub("", text))) if "[" in text else text
    for _ in range(3):  # as in **Q: *this* one?**
        text = EMPHASIS.sub(lambda mark: mark[0] if re.fullmatch(r"__[a-z\d_]+__", mark[0]) else mark[2], text)
    return text


def _cards(path: Path) -> Rows:
    lines = list(_text_lines(path))
    settings = {match[1].lower(): match[2].strip() for _, text in lines if (match := SETTING.match(text))}
    others = {int(value) for name, value in settings.items() if name.endswith(" column") and value.isdecimal()}
    every = [(line, text) for line, text in lines if text.strip() and not SETTING.match(text)]
    ruled = any(TABLE.match(text) and RULE.match(text) for _, text in every)
    every = [(line, text) for line, text in every if not (TABLE.match(text) and RULE.match(text))]
    mark = _mark([text for _, text in every])
    every = [(line, text) for line, text in every if not HEADING.match(text) or (mark and mark in text)]
    for line, text in every if mark == " | " and ruled else ():
        if not TABLE.match(text):
            raise FactsError(f"{path}, line {line}: is no row of the table; keep the table in a file of its own")
    numbered = all(BULLET.match(text) for _, text in every)
    rows = [
        (line, [_unmarked(side) for column, side in enumerate(sides, start=1) if column not in others])
        for line, sides in _sides(every, mark, settings.get("separator", ""))
    ]
    head = next((sides for _, sides in rows[:1]), [])
    if kind_of_row(dict.fromkeys(head, "")) is None:
        head = []
    if head and kind_of_row(dict.fromkeys(head, "")) != "qa":
        raise FactsError(f"{path}: its columns ({', '.join(head)}) are no question and answer; save it as .tsv or .csv")
    if head or ruled:
        rows = rows[1:]
    elif "columns" in settings:
        head = settings["columns"].split(SEPARATORS.get(settings.get("separator", "").lower(), "\t"))
        head = head if kind_of_row(dict.fromkeys(head, "")) == "qa" else []
    ids = not head and _begins_with_numbers([sides for _, sides in rows])
    for line, sides in rows:
        where = f"{path}, line {line}"
        if head:
            row = _named(dict(zip(head, sides, strict=False)))
            if not all(row.get(name) for name in (_first(row, ASKS), _first(row, TELLS))):
                raise _no_answer(where)
            yield where, row
            continue
        sides = sides[1:] if ids else sides
        if ruled and len(sides) > 2:
            raise FactsError(
                f"{where}: which of its {len(sides)} columns ask and answer isn't said; name two of them "
                "Question and Answer in the first row"
            )
        if numbered and sides:
            sides[0] = BULLET.sub("", sides[0])
        if len(sides) < 2 or not all(sides[:2]):
            raise _no_answer(where)
        yield where, dict(zip(("question", "answer"), sides, strict=False))


def _no_answer(where: str) -> FactsError:
    return FactsError(
        f"{where}: has no answer after its question; write question, tab and answer on a line, or take the line out"
    )


def _begins_with_numbers(rows: list[list[str]]) -> bool:
    """Whether the first of three columns or more counts the rows, or stands before what asks."""
    if not rows or any(len(sides) < 3 or not re.fullmatch(r"#?\d+[.)]?", sides[0]) for sides in rows):
        return False
    numbers = [int(sides[0].strip("#.)")) for sides in rows]
    counted = [number - numbers[0] for number in numbers] == list(range(len(numbers)))
    return counted or all(sides[1].endswith(ASK_ENDS) for sides in rows)


def _sides(lines: list[tuple[int, str]], mark: str | None, separator: str) -> Iterator[tuple[int, Sequence[str]]]:
    """The columns of each card, with the line where it begins.

    Args:
        mark: See `_mark`.
        separator: As Anki names what parts its columns, where a file says so: a column may then hold line breaks.
    """
    if separator:
        rows = csv.reader((f"{text}\n" for _, text in lines), delimiter=SEPARATORS.get(separator.lower(), separator[0]))
        begin = 0
        for row in rows:
            yield lines[begin][0], row
            begin = min(rows.line_num, len(lines) - 1)
        return
    for line, text in lines:
        pair = ASKED_AND_TOLD.match(text)
        if row := TABLE.match(text) if mark == " | " else None:
            yield line, [cell.replace("\\|", "|") for cell in CELLS.split(row[1])]
        elif mark == ",":
            yield line, text.split(",", 1)
        else:
            yield line, text.split(mark) if mark else pair.groups() if pair else (text, "")


def _mark(lines: list[str]) -> str | None:
    """What parts question and answer on most lines of a text; the others are then at fault. "" where that is the
    question mark alone; None where nothing does."""
    lines = [line for line in lines if not (TABLE.match(line) and RULE.match(line))]
    marks = [line for line in lines if not HEADING.match(line)]
    lines = marks or lines
    if not lines:
        return None
    if sum(bool(TABLE.match(line)) for line in lines) * 2 >= len(lines):
        return " | "
    short = len(lines) > 1 and not any(line.rstrip().endswith((".", "!", "。")) for line in lines)
    weak = WEAK_MARKS if len(lines) > 2 else (": ",)
    for mark in (*MARKS, *(weak if short else ())):
        most = max(3, *(line.count(mark) for line in lines[:2])) if mark == "\t" else 1
        held = sum(1 <= line.count(mark) <= most and all(line.split(mark)[:2]) for line in lines)
        if mark == ": " and any(len(line.split(mark)[-1].split()) > 3 for line in lines):
            continue  # labels before sentences
        if held == len(lines) or (mark in MARKS and held * 2 > len(lines) - (mark == "\t")):
            return mark
    if sum(bool(ASKED_AND_TOLD.match(line)) for line in lines) * 2 > len(lines):
        return ""
    return "," if short and all(map(COMMA.match, lines)) else None


def _pairs(path: Path) -> Rows:
    lines = [(line, text) for line, text in _text_lines(path) if not SETTING.match(text)]
    texts = [text for _, text in lines if text.strip()]
    labels = _labels(path, texts) or ((Q, A) if any(map(Q.match, texts)) else None)
    headings = any(map(HEADING.match, texts))
    begins, tells = labels or (HEADING if headings else ASKED_ALONE, None)
    notes = NOTES | _repeated([match[1].casefold() for text in texts if (match := LABEL.match(text))])
    where, row, turn = "", {}, ""

    def ended() -> Rows:
        if not where or not (row["question"] or labels):
            return
        if not row["question"]:
            raise FactsError(f"{where}: has no question before its answer; write it after its label")
        if not row["answer"]:
            raise FactsError(f"{where}: the question {row['question'][:40]!r} has no answer; write it below")
        yield where, {name: " ".join(said) if isinstance(said, list) else said for name, said in row.items()}

    for number, (line, text) in enumerate(lines):
        option = OPTION.match(text) if labels and turn in ("q", "option") else None
        if option and not _is_option(option[1], row, [text for _, text in lines[number + 1 :]]):
            option = None
        if question := begins.match(text):
            yield from ended()
            both = REPLY.search(question[1])
            asked = BULLET.sub("", question[1][: both.start() if both else None]).strip(" *_")
            if not labels and not asked.endswith(ASK_ENDS):
                asked = ""  # a heading that asks nothing
            where, turn = f"{path}, line {line}", "q"
            row = {"question": asked, "answer": [_unmarked(both[1])] if both else []}
        elif option:
            row[option[1].lower()], turn = _unmarked(option[2]), "option"
        elif tells and (reply := tells.match(text)):
            row["answer"], turn = [part for part in (_unmarked(reply[1]),) if part], "a"
        elif not text.strip() or not where or RULE.match(text):
            continue
        elif labels and (label := LABEL.match(text)) and label[1].casefold() in notes:
            turn = "note" if turn == "a" else turn
        elif labels and turn == "q":
            row["question"] = f"{row['question']} {text.strip()}".strip()
        elif turn != "note" and row["question"]:
            row["answer"].append(_unmarked(BULLET.sub("", text)))
    yield from ended()


def _is_option(letter: str, row: dict, following: list[str]) -> bool:
    """Whether the next choice of a question begins with a letter; A does only with B below it."""
    held = sum(len(name) == 1 for name in row)
    if letter.lower() != "abcdefgh"[min(held, 7)]:
        return False
    below = OPTION.match(next((text for text in following if text.strip()), ""))
    return bool(held or (below and below[1].lower() == "b"))


def _repeated(labels: list[str]) -> set[str]:
    return {label for label in labels if labels.count(label) > 1}


def _unmarked(text: str) -> str:
    """A side of a card without HTML and emphasis."""
    plain = html.unescape(re.sub(r"<[a-zA-Z/][^>]*>", " ", text)) if re.search(r"<[a-zA-Z/]|&\w+;", text) else text
    return " ".join(_plain_text(plain).strip().strip('"').split())
