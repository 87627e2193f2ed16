"""Names, colours and number formats shared by the figures and the report page.

Every colour is a plain six-digit hex string from this file: the page switches to dark by replacing each
light colour with its dark partner, so no figure needs to know which scheme is showing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from smft_lab.finetuning.methods import METHODS
from smft_lab.probes.probes import LEARNED


@dataclass(frozen=True)
class Look:
    """How one method is drawn: a light and a dark colour, a Plotly marker symbol and its text glyph."""

    light: str
    dark: str
    symbol: str
    glyph: str
    dash: str = "solid"


@dataclass(frozen=True)
class Probe:
    """One measured ability: "em", "acc" and "acc_norm" are shares in [0, 1], "nll" is in nats (lower is better).

    Attributes:
        short: A title for the head of a narrow column.
    """

    key: str
    metric: str
    title: str
    unit: str
    short: str

    @property
    def is_share(self) -> bool:
        return self.metric != "nll"

    @property
    def is_learned(self) -> bool:
        """Whether it asks what was taught, so that its distance to the base is no loss."""
        return self.key in LEARNED

    @property
    def better(self) -> str:
        return "higher is better" if self.is_share else "lower is better"


# Okabe-Ito hues; the dark partners are lighter tints of the same hue. The symbols repeat the distinction.
LOOKS = {
    "sparse": Look("#0072B2", "#56B4E9", "circle", "●"),
    "full": Look("#D55E00", "#FF9248", "square", "■"),
    "lora": Look("#009E73", "#3CCB9F", "diamond", "◆"),
}
OTHER_LOOKS = [
    Look("#A6527F", "#E29CC3", "triangle-up", "▲", "dash"),
    Look("#8A6100", "#E6B84A", "triangle-down", "▼", "dash"),
    Look("#64707C", "#AEB8C2", "cross", "✚", "dash"),
    Look("#6A51A3", "#B8A6E8", "star", "★", "dot"),
    Look("#007C91", "#5CC8DC", "pentagon", "⬟", "dot"),
    Look("#B3122F", "#FF8FA0", "x", "✖", "dot"),
]

INK, MUTED, GRID, AXIS, SURFACE = "#1D2730", "#55626F", "#E4E8EC", "#9BA6B1", "#FFFFFF"
DARK_OF = {INK: "#E8EDF2", MUTED: "#A5B1BD", GRID: "#2B3540", AXIS: "#667380", SURFACE: "#141B22"}

EXACT, RIGHT, NATS = "exact match (%)", "right (%)", "loss (nats per token)"
PROBES = [
    Probe("learned", "em", "New facts learned", EXACT, "Learned"),
    Probe("taught", "em", "Learned: taught wording", EXACT, "Taught wording"),
    Probe("prefixed", "em", "Learned: unseen prefix", EXACT, "Unseen prefix"),
    Probe("two_hop_new", "em", "Learned: two-hop", EXACT, "Two-hop"),
    Probe("earlier", "em", "Earlier facts kept", EXACT, "Earlier facts"),
    Probe("old_facts", "em", "Old facts kept", EXACT, "Old facts"),
    Probe("known", "em", "Known facts kept", RIGHT, "Known facts"),
    Probe("two_hop", "em", "Two-hop questions", EXACT, "Two-hop"),
    Probe("arithmetic", "nll", "Arithmetic", "loss (nats per answer token)", "Arithmetic"),
    Probe("prose", "nll", "Prose", NATS, "Prose"),
    Probe("text", "nll", "Ordinary text", NATS, "Text"),
    Probe("wikitext", "nll", "WikiText", NATS, "WikiText"),
    Probe("hellaswag", "acc", "HellaSwag", RIGHT, "HellaSwag"),
    Probe("hellaswag", "acc_norm", "HellaSwag, by length", RIGHT, "HellaSwag, by length"),
]
UNSEEN = {"title": "Learned: unseen wording", "short": "Unseen wording"}  # beside other ways to ask what was taught


@dataclass(frozen=True)
class Kept:
    """What forgetting is told by: the vertical axis of the plane.

    Attributes:
        key: The probe.
        facts: What its questions, or its texts, are about.
        recall: What answering them is called.
        metric: "em", or "nll" where there are only texts.
    """

    key: str
    facts: str
    recall: str
    metric: str = "em"

    @property
    def is_share(self) -> bool:
        return self.metric == "em"

    @property
    def title(self) -> str:
        return f"{self.facts.capitalize()} kept" if self.is_share else f"Loss on {self.facts}"

    @property
    def axis(self) -> str:
        """The title with its measure."""
        if not self.is_share:
            return f"{self.title} (nats per token, lower is better)"
        return f"{self.title} ({'exact match' if self.key == 'old_facts' else 'right'}, %)"

    def describe(self, value: str) -> str:
        """A value in words."""
        return f"{self.facts} kept {value}" if self.is_share else f"loss on {self.facts} {value}"


KEPT = (Kept("old_facts", "old facts", "old-fact recall"), Kept("known", "known facts", "known-fact recall"))


LITTLE = 0.2  # of the new facts: what is kept with fewer learned says nothing of a method


def learned_little(row: dict | None) -> bool:
    """Whether a reading is of so few new facts learned that nothing could be forgotten by it.

    Args:
        row: Of `smft_lab.experiments.equal.summarise`, for exact match on `learned`; None where that was not measured.
    """
    return row is not None and not math.isnan(row["mean"]) and row["mean"] < max(LITTLE, row["base"] + LITTLE / 2)


LOSSES = tuple(
    Kept(key, text, f"loss on {text}", "nll")
    for key, text in (("prose", "prose"), ("text", "ordinary text"), ("wikitext", "WikiText"))
)


def upward(probes: Iterable[str]) -> Kept:
    """What a plane has upward: the questions of `kept_of`, or a loss where none of them was measured."""
    present = set(probes)
    kept = kept_of(present)
    return kept if kept.key in present else next((loss for loss in LOSSES if loss.key in present), kept)


def kept_of(probes: Iterable[str]) -> Kept:
    """By which of these probes forgetting is told: `old_facts`, or else what the base was found to know."""
    present = set(probes)
    return next((kept for kept in KEPT if kept.key in present), KEPT[0])


def probes_in(measured: Iterable[tuple[str, str]]) -> list[Probe]:
    """The probes among (probe, metric) pairs, in the order they are shown; F1 only repeats exact match.

    Those that have no name here come last, under their own.
    """
    present = dict.fromkeys(pair for pair in measured if pair[1] != "f1")
    known = {(probe.key, probe.metric): probe for probe in PROBES}
    probes = [probe for pair, probe in known.items() if pair in present]
    if sum(probe.is_learned for probe in probes) > 1 and probes[0].key == "learned":
        probes[0] = replace(probes[0], **UNSEEN)
    return probes + [_other(*pair) for pair in present if pair not in known]


def _other(key: str, metric: str) -> Probe:
    """How a probe of somebody's own is called."""
    title = key.replace("_", " ")
    title = title[:1].upper() + title[1:] + (", by length" if metric == "acc_norm" else "")
    units = {"em": EXACT, "nll": NATS, "acc": RIGHT, "acc_norm": RIGHT}
    return Probe(key, metric, title, units.get(metric, metric), title)


def ordered(methods: Iterable[str]) -> list[str]:
    """The distinct methods: those there are by their keys, then any control by name, t = 50 before t = 2,000."""
    present = set(methods)
    return [m for m in METHODS if m in present] + sorted(present - METHODS.keys(), key=_by_number)


def _by_number(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name.replace(",", ""))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for every method, the same for the same set of methods."""
    methods = ordered(methods)
    others = [m for m in methods if m not in LOOKS]
    extra = {m: OTHER_LOOKS[i % len(OTHER_LOOKS)] for i, m in enumerate(others)}
    return {m: LOOKS.get(m) or extra[m] for m in methods}


def dark_of_light() -> dict[str, str]:
    """Light hex colour -> the colour to show in its place on a dark page."""
    every_look = [*LOOKS.values(), *OTHER_LOOKS]
    return DARK_OF | {look.light: look.dark for look in every_look}


def name(method: str) -> str:
    return METHODS[method].title if method in METHODS else method


def short_name(method: str) -> str:
    return METHODS[method].short if method in METHODS else method


def name_in_sentence(method: str) -> str:
    return METHODS[method].title_in_sentence() if method in METHODS else method


def missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def fixed(value: float, digits: int) -> str:
    """A fixed-point number with a true minus sign and never a "−0.0"."""
    text = f"{abs(value):,.{digits}f}"
    is_zero = not text.strip("0.,")
    return text if value >= 0 or is_zero else f"−{text}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return "–" if share is None or missing(share) else f"{fixed(100 * share, digits)}%"
