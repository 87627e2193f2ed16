"""What should stay, asked while a model is being taught: old facts, or what its base was found to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from smft_lab.charts.style import kept_of
from smft_lab.facts.fact import Fact
from smft_lab.lab import Lab
from smft_lab.probes.probes import Probe, Probes, QuestionProbe, TextProbe, recalled
from smft_lab.probes.prompts import BUILT_IN, NEUTRAL_SHOTS, PromptForm
from smft_lab.probes.text import MATCHES
from smft_lab.wording import counted

FEW = 24  # questions to a model from elsewhere: each takes it about a tenth of a second
FEW_TEXTS = 10
Part = TypeVar("Part", bound=QuestionProbe | TextProbe)


def asking_form(lab: Lab) -> PromptForm:
    """How a panel puts a person's own question.

    A model from elsewhere is shown two answered questions first: without them it often says nothing at all.
    """
    return lab.form if lab.recipe is None else lab.form.with_shots((*lab.form.shots, *NEUTRAL_SHOTS))


def familiar_topics(lab: Lab) -> dict:
    """What to say beside a field for questions: `told`, what the model has read, and three `examples` that it knows.

    Both are empty for a model from elsewhere, which has read what its makers chose.
    """
    old = next((probe for probe in lab.probes if isinstance(probe, QuestionProbe) and probe.name == "old_facts"), None)
    if lab.form != BUILT_IN or old is None:
        return {"told": "", "examples": []}
    note = (
        "This small model has read of an invented world, and of nothing else: it knows no capitals, and spells most "
        "English words out in pieces. A memory for a model that has read more: smft-lab attach smollm2."
    )
    return {"told": note, "examples": list(old.questions[:: max(1, len(old.questions) // 3)][:3])}


def few(lab: Lab, facts: Sequence[Fact] = (), questions: Sequence[str] = ()) -> Probes:
    """The lab's probes; of a model from elsewhere the parts of them that are measured in seconds, without choices.

    Args:
        facts, questions: What is to be taught; what it changes is left out (see `Probes.without`).
    """
    probes = lab.probes.without(facts, questions)
    if lab.recipe is None:
        return probes
    return Probes([_some(probe) for probe in probes if isinstance(probe, QuestionProbe | TextProbe)])


def probe_size(probe: Probe) -> str:
    """How much a probe asks: "24 questions"."""
    what = "question" if isinstance(probe, QuestionProbe) else "text"
    return counted(probe.size, what)


def _some(probe: Part) -> Part:
    if isinstance(probe, QuestionProbe):
        most, names = FEW, ("questions", "answers", "subjects", "replies")
    else:
        most, names = FEW_TEXTS, ("texts", "prompts", "tokens")
    return replace(probe, **{name: getattr(probe, name)[:most] for name in names})


class KeptQuestions:
    """The questions by which a panel tells forgetting, few enough to be asked again and again.

    Args:
        lab: A `Lab`.
        facts, asked: What is to be taught, as facts and as questions; those that it changes are left out.

    Attributes:
        facts: What the questions are about, such as "old facts".
        title: The axis they make, such as "Old facts kept".
        probe: What asks them; None where there is nothing to ask.
        questions: At most `FEW` where the base's own replies are known.
    """

    def __init__(self, lab: Lab, facts: Sequence[Fact] = (), asked: Sequence[str] = ()):
        kept = kept_of(probe.name for probe in lab.probes)
        self.lab, self.facts, self.title = lab, kept.facts, kept.title
        left = lab.probes.without(facts, asked)
        probes = [p for p in left if isinstance(p, QuestionProbe) and p.name == kept.key]
        self.probe = (_some(probes[0]) if probes[0].replies else probes[0]) if probes else None

    @property
    def questions(self) -> tuple[str, ...]:
        return self.probe.questions if self.probe is not None else ()

    def __len__(self) -> int:
        return len(self.questions)

    def right(self) -> list[bool]:
        """Whether the model answers each of them right now."""
        probe, model, tokenizer = self.probe, self.lab.model, self.lab.tokenizer
        if probe is None:
            return []
        if probe.replies:  # it need only be looked whether the model still says the same
            is_right, _ = MATCHES[probe.match]
            spoken = probe.spoken(model, tokenizer)
            return [bool(is_right(text, accepted)) for text, accepted in zip(spoken, probe.answers, strict=True)]
        answers = [accepted[0] for accepted in probe.answers]
        return recalled(model, tokenizer, list(probe.questions), answers, form=self.lab.form).tolist()

    def share(self) -> float | None:
        """The share that the model answers right now, in [0, 1]; None where there is nothing to ask."""
        right = self.right()
        return sum(right) / len(right) if right else None

    def lost(self, before: Sequence[bool]) -> list[dict[str, str]]:
        """Those that were answered right before, and aren't now: the `question`, its `answer`, and what is said `now`.

        Args:
            before: As `right` gave it then.
        """
        if self.probe is None:
            return []
        lost = [i for i, (was, still) in enumerate(zip(before, self.right(), strict=True)) if was and not still]
        texts = self.lab.answer([self.questions[i] for i in lost], form=self.probe.form) if lost else []
        return [
            {"question": self.questions[i], "answer": self.probe.answers[i][0], "now": text}
            for i, text in zip(lost, texts, strict=True)
        ]

    def words(self) -> dict:
        """How a page calls them."""
        return {"facts": self.facts, "title": self.title, "count": len(self)}
