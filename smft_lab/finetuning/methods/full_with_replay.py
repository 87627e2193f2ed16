"""Full finetuning with replay: old texts are trained on beside each batch of new ones (Robins 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from smft_lab.facts.common import common_questions
from smft_lab.facts.world.corpus import Corpus
from smft_lab.finetuning.method import Mix, register
from smft_lab.finetuning.methods.full import Full
from smft_lab.lab import Lab
from smft_lab.ranges import check_counts
from smft_lab.recipe import Recipe


@register
@dataclass(frozen=True, kw_only=True)
class Replay(Full):
    """Full finetuning beside old texts, drawn anew for each batch.

    Args:
        texts: The old texts. By default those that the lab's model was pretrained on, if it knows the built-in world;
            else general questions, none of them a probe's, with what the model answers when the run begins.
        count: How many beside each batch; at least 1.
        lr, optimizer, fast, penalty: See `Full`; the rate is by default that of full finetuning.

    Raises:
        ValueError: a setting is out of range, or there are fewer texts than `count`, given or general ones.

    Examples:
        >>> steps = list(smft.finetune(lab, smft.new_facts(1), smft.Replay(count=2), passes=1, probe_every=0))
        >>> len(steps)
        2
        >>> lab.reset()
    """

    key = "replay"
    title = "Full finetuning with replay"
    short = "Replay"
    about = "Trains every number of the model, on old texts beside the new ones."

    texts: tuple[str, ...] = ()
    count: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(count=self.count)
        if self.mix is not None:
            raise ValueError("replay mixes its own texts; give them as texts, or mix to full finetuning")
        if self.texts and len(self.texts) < self.count:
            raise ValueError(f"{self.count} texts can't be drawn from {len(self.texts)}; give more texts")

    def tuned(self, lab: Lab) -> dict[str, Any]:
        return lab.defaults.get(self.key) or lab.defaults.get(Full.key, {})

    def check(self, lab: Lab, recipe: Recipe | None = None) -> None:
        if not self.texts and lab.world_seed is None and self.count > (most := len(common_questions("background"))):
            raise ValueError(f"there are {most} general questions to replay, not {self.count}; give texts")

    def mixing(self, lab: Lab) -> Mix:
        if not self.texts and lab.world_seed is not None:
            corpus = Corpus(lab.world)
            return lambda rng: corpus.texts(rng, self.count)
        questions = [question.question for question in common_questions("background")]
        shuffled = Random("replay").sample(questions, len(questions))  # the order in which earlier runs drew from them
        texts = list(self.texts) or own_answers(lab, shuffled)
        return lambda rng: rng.sample(texts, self.count)


def own_answers(lab: Lab, questions: Sequence[str]) -> list[str]:
    """Questions in the lab's form, with what its model answers now."""
    replies = lab.answer(questions)
    return [lab.form.answered(*pair, lab.tokenizer) for pair in zip(questions, replies, strict=True)]
