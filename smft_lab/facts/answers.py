"""Where an answer stands in a text: as whole words, at the text's own places, however its characters are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

import regex

from smft_lab.facts.fact import Fact, as_tuple

KEPT = ("<super>", "<sub>", "<fraction>", "<circle>")  # forms of a character that mean more than the plain one
WRITTEN_ALIKE = str.maketrans(
    dict.fromkeys("‘’‚‛′ʼ", "'") | dict.fromkeys("“”„‟«»″", '"') | dict.fromkeys("‐‑‒–−", "-")
)
UNSPACED = r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
"""Scripts that leave no space between words, for a character class of `regex`."""
_UNSPACED = regex.compile(f"[{UNSPACED}]")
# What may not, and what may at need, stand right before an answer and right after it.
_WITHIN = (regex.compile(r"\d[.,:/]$|(?<![\w)])-$|(?<!\w)\.$"), regex.compile(r"[.,:/]\d|[+#]|-(?!\w)"))
_JOINED = (regex.compile(r"\w[-'@/.]$"), regex.compile(r"-\w|'(?!s?\b)\w|'s\w|[@/.]\w"))


def unified(text: str) -> list[str]:
    """The characters of a text (grapheme clusters; a run of blanks is one), with those that are written in several ways
    written in one: composed and decomposed accents, wide and narrow letters, ligatures, quotes, dashes."""
    return [_unified(cluster) for cluster in regex.findall(r"\s+|\X", text)]


@lru_cache(2**14)
def answer_places(text: str, answers: tuple[str, ...] | str) -> tuple[tuple[int, int], ...]:
    """Where a text holds an accepted answer as words of its own: (start, end) in characters, the last one first.

    Of several answers the canonical one counts if it is there, and of two places of which one holds the other, the
    longer. A part of a compound ("Ann" in "Mary-Ann") or an answer without its capitals ("us" for "US") counts only if
    there is no better place.

    Args:
        answers: The canonical one first.
    """
    clusters = regex.findall(r"\s+|\X", text)
    bounds = [0, *accumulate(map(len, clusters))]
    written = [_unified(cluster) for cluster in clusters]
    folded, whose = _folded(written)
    ranks: dict[tuple[int, int], tuple[bool, bool]] = {}  # of each place: whether it is sure, and canonical
    for number, answer in enumerate(as_tuple(answers)):
        letters = unified(answer.strip())
        asked = _folded(letters)[0]
        for start in [i for i, letter in enumerate(folded) if letter == asked[0]] if asked else []:
            end = start + len(asked)
            if (
                folded[start:end] != asked
                or (start and whose[start] == whose[start - 1])
                or whose[end] == whose[end - 1]
            ):
                continue  # or it begins or ends within a letter
            first, after = whose[start], whose[end]
            part = "".join(written[first:after])
            apart = _apart("".join(written[max(0, first - 4) : first]), part, "".join(written[after : after + 4]))
            if apart:
                capitals = sum(map(str.isupper, part)) >= sum(map(str.isupper, "".join(letters)))
                place, rank = (bounds[first], bounds[after]), (apart > 1 and capitals, not number)
                ranks[place] = max(rank, ranks.get(place, rank))
    whole = {  # a longer place ranks as high as the best that it holds
        place: max([rank, *(ranks[other] for other in ranks if _holds(place, other))])
        for place, rank in ranks.items()
        if not any(_holds(other, place) for other in ranks)
    }
    return tuple(sorted((place for place, rank in whole.items() if rank == max(whole.values())), reverse=True))


def word_count(text: str) -> int:
    """How many words a text has; in a script without spaces, two characters count for one."""
    return len(regex.sub(f"[{UNSPACED}]", " ", text).split()) + (len(_UNSPACED.findall(text)) + 1) // 2


def check_answers(facts: Sequence[Fact]) -> str | None:
    """A one-line note when some statements don't hold their answer word for word; None when all do."""
    every = [(text, fact) for fact in facts for text in fact.statements]
    without = [(text, fact) for text, fact in every if not answer_places(text, fact.answers)]
    if not without:
        return None
    text, fact = without[0]
    return (
        f"{len(without)} of {len(every)} statements do not hold their answer as words of their own, such as "
        f"{text[:60]!r} with the answer {fact.answer[:40]!r}; where the loss is on the answer, all of such a statement "
        "is learned"
    )


def _folded(characters: Iterable[str]) -> tuple[list[str], list[int]]:
    """Unified characters without their case, and the number of the one that each comes from, with their count at the
    end: ß comes apart as ss."""
    folded, whose = [], []
    for number, character in enumerate(characters):
        plain = character.casefold().replace("i\u0307", "i")  # of the Turkish capital
        parts = list(plain) if len(plain) > 1 and plain.isalnum() else [plain] if plain else []
        folded += parts
        whose += [number] * len(parts)
    return folded, [*whose, whose[-1] + 1 if whose else 0]


@lru_cache(4096)
def _unified(cluster: str) -> str:
    if cluster.isspace():
        return " "
    letters = unicodedata.normalize("NFD", cluster).translate(WRITTEN_ALIKE)
    plain = [
        letter if unicodedata.decomposition(letter).startswith(KEPT) else unicodedata.normalize("NFKD", letter)
        for letter in letters
        if unicodedata.category(letter) != "Cf"  # joiners and marks that nobody sees
    ]
    return "".join(plain).translate(WRITTEN_ALIKE)


def _apart(before: str, answer: str, after: str) -> int:
    """Whether an answer stands apart from what is around it: 2 as words of its own, 1 as a part of a compound, 0 no."""
    last, first = before[-1:], after[:1]
    if _one_word(last, answer[0]) or (_one_word(answer[-1], first) and not regex.match(r"\p{Script=Hangul}", first)):
        return 0
    left = bool(regex.match(r"[\w.]", answer))
    right = bool(regex.search(r"\w$", answer))
    if (left and _WITHIN[0].search(before) and regex.match(r"[\d.]", answer)) or (right and _stays(answer, after)):
        return 0
    joined = (left and _JOINED[0].search(before)) or (right and _JOINED[1].match(after))
    return 2 if not joined else int(len(answer) > 1)


def _stays(answer: str, after: str) -> bool:
    """Whether what follows belongs to a number or to a sign, as in 3.5, C++ and A-."""
    match = _WITHIN[1].match(after)
    return bool(match) and (answer[-1].isdigit() or match[0][0] in "+#-")


def _one_word(left: str, right: str) -> bool:
    """Whether two characters in a row are within one word, as far as their script tells."""
    if not left or not right or not regex.match(r"[\w\p{M}]", right) or not regex.search(r"[\w\p{M}]", left):
        return False
    return not (_UNSPACED.search(left) or _UNSPACED.match(right)) and "_" not in (left, right)


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]
