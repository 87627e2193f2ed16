"""Questions with answers in plain text files and Markdown: cards, labelled pairs, and sentences.

What is in doubt is named, not taught: a line that is no card among cards, labels that nobody knows, columns that do
not say what they are.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from smft_lab.facts.files import FactsError, _lines
from smft_lab.facts.public.formats import ASKS, TELLS, _first, _named, kind_of_row
from smft_lab.facts.rows import ANSWER_WORDS, QUESTION_WORDS, Rows
from smft_lab.facts.signs import QUESTION_ENDS, QUESTION_MARKS

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
REPLY = re.compile(rf"(?:\s|(?<=[{QUESTION_MARKS}]))(?i:{_A_WORDS})\s*[:：]\s*(\S.*)")
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
ASKED_AND_TOLD = re.compile(
    rf"^([^{QUESTION_MARKS}\t]{{3,}}[{QUESTION_MARKS}])[\"”]?\s*(?:[-–—:>=|,;→]+\s*)?([^\s\t][^\t]*)$"
)
ASKED_ALONE = re.compile(_BEFORE + rf"[*_]*(.*[{QUESTION_MARKS}])[*_\s]*$")
CLOZE = re.compile(r"\{\{c\d+::(.*?)(?:::[^{}]*)?\}\}")  # of Anki: {{c1::Paris}} or {{c1::Paris::hint}}
TAGGED = re.compile(r"<(p|b|i|u|em|strong|span|div|li|a|h[1-6]|sup|sub|font)\b[^>]*>(.*?)</\1>", re.IGNORECASE)
SETTING = re.compile(r"#(\w[\w ]*):(.*)")  # of Anki, which begins its exports with such as #separator:tab
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "colon": ":", "space": " "}


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
    if headings and sum(heading.endswith(QUESTION_ENDS) for heading in headings) * 2 > len(headings):
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
    labelled = [match for line in lines if (match := LABEL.match(line))]
    labels = [match[1].casefold() for match in labelled]
    turns = len(labels) > 1 and len(set(labels)) == 2 and labels == (labels[:2] * len(labels))[: len(labels)]
    if not turns or len(labels) < 0.8 * len(lines):
        return None
    named = labels[0] in ASKS and labels[1] in TELLS
    if named or all(match[2].rstrip(" *_").endswith(QUESTION_ENDS) for match in labelled[::2]):
        asks, tells = (re.compile(f"{_BEFORE}{re.escape(label)}{_SAYS}", re.IGNORECASE) for label in labels[:2])
        return asks, tells
    if len(labels) < 4:
        return None
    raise FactsError(
        f"{path}: its lines begin with {labelled[0][1]}: and {labelled[1][1]}: in turn, which aren't known to ask and "
        "to answer; write Q: and A: in their place"
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
    return counted or all(sides[1].endswith(QUESTION_ENDS) for sides in rows)


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
        yield where, {name: " ".join(side) if isinstance(side, list) else side for name, side in row.items()}

    for number, (line, text) in enumerate(lines):
        option = OPTION.match(text) if labels and turn in ("q", "option") else None
        if option and not _is_option(option[1], row, [text for _, text in lines[number + 1 :]]):
            option = None
        if question := begins.match(text):
            yield from ended()
            both = REPLY.search(question[1])
            asked = BULLET.sub("", question[1][: both.start() if both else None]).strip(" *_")
            if not labels and not asked.endswith(QUESTION_ENDS):
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
