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
| cards | a text file: a question, a tab or another mark, and its answer on each line (Quizlet, Anki) |
| pairs | a text file: `Q: ...` and `A: ...`, or Markdown headings that ask, each with its answer below |
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
from smft_lab.facts.rows import Rows, Unusable, parsed, strings

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
ASKS = ("question", "q", "query", "front", "term", "prompt", "instruction", "problem", "input", "questions", "inputs")
TELLS = (
    *("answer", "answers", "a", "back", "definition", "response", "completion", "output", "target", "targets"),
    *("best_answer", "correct_answer", "correct_answers", "ideal", "reply", "correct", "correct_option"),
)
CHOICES = ("options", "choices")
NO_INPUT = re.compile(r"<\s*no ?input\s*>", re.IGNORECASE)  # as files of instructions write an empty one
MARKS, WEAK_MARKS = ("\t", " => ", " -> ", " → ", "::"), (" | ", " = ", " - ", " – ", " — ", ";", ": ")
"""What may part a question from its answer on a line of a text file; the weak ones stand in sentences, too."""
_AT = r"^[\s>*_-]*(?:{})\s*(?:\d*\s*[*_]*\s*[:：]|\d+\s*[.)])\s*[*_]*\s*(.*)$"
_Q_WORDS = "question|q|user|human|问|問|вопрос|frage|pregunta"
_A_WORDS = "answer|a|assistant|bot|gpt|答|ответ|antwort|respuesta"
Q, A = (re.compile(_AT.format(words), re.IGNORECASE) for words in (_Q_WORDS, _A_WORDS))
REPLY = re.compile(rf"\s(?i:{_A_WORDS})\s*[:：]\s*(\S.*)")
HEADING, BULLET = re.compile(r"^\s{0,3}#{1,6}\s+(.*?)\s*#*$"), re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+")
TABLE = re.compile(r"^\s*\|\s*(.*?)\s*\|\s*$")  # a row of a table in Markdown
RULE = re.compile(r"^[\s|:=*_#~`+-]*$")  # a line that rules off, or a fence
ASKED_AND_TOLD = re.compile(r"^([^?？\t]{3,}[?？])[\"”]?\s*(?:[-–—:>=|,;→]+\s*)?([^\s\t][^\t]*)$")
ASKED_ALONE = re.compile(r"^\s*(?:\d{1,3}[.)]\s+)?[*_]*(.*[?？])[*_\s]*$")
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
    named = [choices.get(answer.strip().lower().strip("().")) for answer in record["answers"]]
    if all(isinstance(name, str) for name in named) and named:
        record["answers"] = strings(f"{where}, choices", named)
    return record


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
    for names in ("{}", "option_{}", "option{}", "op{}"):
        columns = {letter: row.get(names.format(letter)) for letter in "abcdefgh"}
        if columns["a"] is not None and columns["b"] is not None:
            return {letter: text for letter, text in columns.items() if text is not None}
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
    asked = ""
    for turn in map(_named, _objects(turns)):
        who = str(turn.get("role") or turn.get("from") or "").lower()
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):  # in parts, as of texts and images
            content = " ".join(str(part.get("text") or "") for part in _objects(content))
        content = strings(f"{where}, field '{field}'", content or "")[0]
        if who in ("user", "human", "prompter") and not asked:
            asked = content
        elif who in ("assistant", "gpt", "chatgpt", "bot", "model") and asked:
            return {"question": asked, "answers": [content]}
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
    question = re.sub(r"^\s*(?:Question|Q)\s*:\s*", "", record["question"])
    question = re.sub(r"\s*(?:->|=>|#{2,}|\b(?:Answer|A)\s*:)\s*$", "", question)  # how old fine-tuning guides end them
    answers = [re.sub(r"\s*(?:#{2,}|<\|endoftext\|>|</s>|\bEND)\s*$", "", answer) for answer in record["answers"]]
    return {"question": question, "answers": answers}


def _squad(where: str, row: dict) -> dict:
    return _record(where, row, "question", "answers")


def _zsre(where: str, row: dict) -> dict:
    asked, target = ("src", "alt") if row.get("src") else ("prompt", "target_new")
    target = target if row.get(target) is not None else _first(row, ("alt", "target_new", "answers")) or target
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
    if isinstance(value, dict):
        named = _named(value)
        held = next((named[name] for name in ("value", "text", "answer", "str") if named.get(name) is not None), None)
        return [*_told(held), *_told(named.get("aliases"))] if held is not None else [value] if value else []
    if isinstance(value, list):
        return [
            text for item in value if item is not None for text in (_told(item) if isinstance(item, dict) else [item])
        ]
    return [] if value is None else [value]


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
    asked = sum(bool(Q.match(line)) for line in lines)
    answered = sum(bool(A.match(line) or (Q.match(line) and REPLY.search(line))) for line in lines)
    if asked and answered and (asked + answered) * 2 >= len(lines):
        return "pairs"
    headings = [match[1] for line in lines if (match := HEADING.match(line))]
    if headings and sum(heading.endswith(("?", "？")) for heading in headings) * 2 > len(headings):
        return "pairs"
    if len(lines) > 1 and all(bool(ASKED_ALONE.match(line)) is not bool(i % 2) for i, line in enumerate(lines)):
        return "pairs" if not len(lines) % 2 else "lines"
    return "lines" if _mark(lines) is None else "cards"


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
        if marked and (HEADING.match(text) or RULE.match(text) or re.match(r"\s*(```|~~~)", text)):
            continue
        if marked:
            text = re.sub(r"(\*\*|__|`)(\S.*?)\1", r"\2", BULLET.sub("", re.sub(r"^\s*>[>\s]*", "", text)))
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
    if lines and re.match(r"\s*<(!doctype|html|\?xml)\b", lines[0][1], re.IGNORECASE):
        raise FactsError(f"{path} is a web page; copy what it says into a text file")
    ends = [i for i, (_, text) in enumerate(lines) if text.strip() == "---"][:2]
    if path.suffix.lower() == ".md" and len(ends) == 2 and ends[0] == 0:
        lines = lines[ends[1] + 1 :]
    return iter(lines)


def _cards(path: Path) -> Rows:
    lines = list(_text_lines(path))
    settings = {match[1].lower(): match[2].strip() for _, text in lines if (match := SETTING.match(text))}
    others = {int(value) for name, value in settings.items() if name.endswith(" column") and value.isdecimal()}
    every = [(line, text) for line, text in lines if text.strip() and not SETTING.match(text)]
    every = [(line, text) for line, text in every if not (TABLE.match(text) and RULE.match(text))]
    mark = _mark([text for _, text in every])
    numbered = all(BULLET.match(text) for _, text in every)
    for number, (line, sides) in enumerate(_sides(every, mark, settings.get("separator", ""))):
        where = f"{path}, line {line}"
        sides = [_unmarked(side) for column, side in enumerate(sides, start=1) if column not in others][:2]
        if numbered and sides:
            sides[0] = BULLET.sub("", sides[0])
        if number == 0 and kind_of_row(dict.fromkeys(sides, "")) is not None:
            continue  # a head
        if len(sides) < 2 or not all(sides):
            raise FactsError(f"{where}: has no answer after its question; write question, tab and answer on a line")
        yield where, dict(zip(("question", "answer"), sides, strict=True))


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
        text = TABLE.sub(r"\1", text) if mark == " | " else text
        pair = ASKED_AND_TOLD.match(text)
        yield line, text.split(mark) if mark else pair.groups() if pair else (text, "")


def _mark(lines: list[str]) -> str | None:
    """What parts question and answer on all lines of a text, or nearly all; "" where that is the question mark alone;
    None where nothing does."""
    lines = [line for line in lines if not (TABLE.match(line) and RULE.match(line))]
    if not lines:
        return None
    if all(map(TABLE.match, lines)):
        return " | "
    short = len(lines) > 2 and not any(line.rstrip().endswith((".", "!", "。")) for line in lines)
    for mark in (*MARKS, *(WEAK_MARKS if short else ())):
        most = max(3, lines[0].count(mark)) if mark == "\t" else 1
        held = sum(1 <= line.count(mark) <= most and all(line.split(mark)[:2]) for line in lines)
        if mark == ": " and any(len(line.split(mark)[-1].split()) > 3 for line in lines):
            continue  # labels before sentences
        if held >= (0.8 if mark == "\t" else 1) * len(lines):
            return mark
    return "" if sum(bool(ASKED_AND_TOLD.match(line)) for line in lines) >= 0.8 * len(lines) else None


def _pairs(path: Path) -> Rows:
    where, asked, answer_lines = "", "", []

    def ended():
        if asked and not answer_lines:
            raise FactsError(f"{where}: the question {asked[:40]!r} has no answer; write it below")
        return [(where, {"question": asked, "answer": " ".join(answer_lines)})] if asked else []

    lines = [(line, text) for line, text in _text_lines(path) if not SETTING.match(text)]
    marked, turn = any(Q.match(text) for _, text in lines), ""
    begins = Q if marked else HEADING if any(HEADING.match(text) for _, text in lines) else ASKED_ALONE
    for line, text in lines:
        question = begins.match(text)
        if question:
            yield from ended()
            both = REPLY.search(question[1])
            where, turn = f"{path}, line {line}", "q"
            asked, answer_lines = (
                question[1][: both.start() if both else None].strip(" *_"),
                [_unmarked(both[1])] if both else [],
            )
            if not marked and not asked.endswith(("?", "？")):
                asked = ""  # a heading that asks nothing
        elif marked and (reply := A.match(text)):
            answer_lines, turn = [part for part in (_unmarked(reply[1]),) if part], "a"
        elif text.strip() and asked and not RULE.match(text):
            if marked and turn == "q":
                asked = f"{asked} {text.strip()}"
            else:
                answer_lines.append(_unmarked(BULLET.sub("", text)))
    yield from ended()


def _unmarked(text: str) -> str:
    """A side of a card without HTML and emphasis."""
    plain = html.unescape(re.sub(r"<[a-zA-Z/][^>]*>", " ", text)) if re.search(r"<[a-zA-Z/]|&\w+;", text) else text
    return " ".join(re.sub(r"(\*\*|__)(\S.*?)\1", r"\2", plain).strip().strip('"').split())
