"""The teach panel: type a sentence and a question, watch the answer change and everything else stay, then undo it."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
import traitlets

from smft_lab.charts.style import probes_in
from smft_lab.facts.answers import answer_places
from smft_lab.facts.fact import Fact, as_tuple
from smft_lab.facts.own_facts import (
    likely_answer,
    own_fact,
    statements_from_sentence,
    untaught_questions,
)
from smft_lab.facts.questions import question_paraphrases
from smft_lab.finetuning.finetune import all_steps, check_facts, finetune
from smft_lab.finetuning.methods import Sparse
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.probes.probes import match_of
from smft_lab.probes.text import MATCHES
from smft_lab.recipe import Recipe
from smft_lab.slots.patch import Patch, row_changes
from smft_lab.slots.scores import check_top_t
from smft_lab.widgets import sharing
from smft_lab.widgets.drawn_table import in_cells, side_of
from smft_lab.widgets.kept import KeptQuestions, asking_form, familiar_topics, few, probe_size
from smft_lab.widgets.panel import page, save_patch
from smft_lab.widgets.training_panel import TrainingPanel

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

ASKED_EVERY = 0.25  # seconds of training between two looks at the answer
ASKING = 0.3  # most of the time that looking may take
PASSES = 20  # of a single fact
LEARNED_AT = 0.03  # nats; of one fact there are few texts, and the question that tests it is none of them
STATEMENTS, WORDINGS = 2, 6  # proposed for a lesson by a recipe: a single fact needs more than each of many
UNTAUGHT = 4  # wordings in which a lesson is asked besides
FASTER = 2  # than the rate tuned on many facts: unfamiliar words take more, and a single fact disturbs little
EXAMPLE = ("Mira's dog is called Biscuit", "What is the name of Mira's dog?")


@dataclass
class Lesson:
    """One fact taught: what the model said before, and the rows it has changed since the base when it was done.

    It is also asked in wordings that nobody taught, `untaught`.
    """

    fact: Fact
    before: str
    untaught: list[str]
    passes: int = 0
    top_t: int = 0
    steps: int = 0
    slots: set[tuple[int, int]] = field(default_factory=set, repr=False)  # table and slot of each row it trained
    patch: Patch = field(init=False, repr=False, compare=False)  # once it is done


class Teach(TrainingPanel):
    """Teach the model one sentence at a time, at twice the rate tuned on many facts; lessons add up until undone.

    A lab with a recipe is taught by it, at its own rate: statements and other wordings of the question together.

    Args:
        lab: A `Lab`. The panel changes its model, and leaves what was taught in it: `reset()` brings the base back.
        sentence, question: What stands there at first.
        runner: `thread`, `tick` or `inline`; what suits the notebook by default.
        theme: `auto`, `light` or `dark`.
    """

    lab: Lab
    _esm = page("teach.js")
    title, takes_patches = "Taught, sentence by sentence", True
    commands = ("propose", "teach", "stop", "undo", "reset", "ask", "save")

    limits = traitlets.Dict().tag(sync=True)
    # sentence, question, answer, statements, wordings; edited: which of the last three a person gave; taught: whether
    # this sentence has been.
    draft = traitlets.Dict().tag(sync=True)
    live = traitlets.Dict().tag(sync=True)  # question, step, total, loss, answer, right, kept, slots, doing
    heat = traitlets.Bytes(b"").tag(sync=True)  # float32 per cell of the drawn table: change since the base
    lessons = traitlets.List().tag(
        sync=True
    )  # question, answer, before, now, right, slots, shared (question, slots), others (question, now, right)
    probes = traitlets.List().tag(sync=True)  # name, title, metric, base, now
    lost = traitlets.List().tag(sync=True)  # question, answer, now: what the base knew and the lessons took
    answers = traitlets.List().tag(sync=True)

    def __init__(
        self,
        lab: Lab,
        sentence: str = EXAMPLE[0],
        question: str = EXAMPLE[1],
        *,
        runner: str | None = None,
        theme: str = "auto",
    ):
        super().__init__(lab, runner, theme)
        self._lessons: list[Lesson] = []
        self._opened: Patch | None = None  # from a file; lessons come on top of it
        self._kept, self._stays = KeptQuestions(lab), few(lab)
        self._base_probes: dict | None = None
        self._base_right: list[bool] = []  # as of `KeptQuestions`, once it was measured
        recipe = lab.recipe
        self._mixed = recipe is not None and recipe.order == "mixed"  # wordings of the question are taught, too
        self.limits = {
            "slots": lab.slots,
            "tables": len(lab.usage.df),
            "side": side_of(lab.slots),
            "top_t": min(Sparse().resolved(lab).settings()["top_t"], lab.slots),
            "passes": max(recipe.passes, recipe.least_steps) if recipe and self._ends_itself() else PASSES,
            "kept": self._kept.words(),
            "mixed": self._mixed,
            "familiar": familiar_topics(lab),
        }
        self.propose(sentence, question)
        self._draw()

    # Commands

    def propose(
        self,
        sentence: str,
        question: str,
        answer: str = "",
        statements: Sequence[str] | str | None = None,
        wordings: Sequence[str] | str | None = None,
    ) -> None:
        """Propose by rule what is not given: the answer, statements, and other wordings of the question.

        Raises:
            ValueError: the question is empty, or the sentence is and there are no statements; or no answer can be told
                from them. Nothing is then proposed.
        """
        given = {"answer": answer or None, "statements": statements, "wordings": wordings}
        typed = {name: list(as_tuple(given[name] or ())) for name in ("statements", "wordings")}
        draft = {
            "sentence": sentence,
            "question": question,
            "answer": answer,
            **typed,
            "edited": [name for name, value in given.items() if value is not None],
            "taught": bool(self.draft.get("taught")) and self.draft["sentence"] == sentence,
        }
        self.draft = draft  # what was proposed for another sentence or question is no longer there
        if not question.strip():
            raise ValueError("the question is empty; type one")
        if not sentence.strip() and not (statements and answer.strip()):
            raise ValueError("the sentence is empty; type one")
        proposed = answer.strip() or likely_answer(sentence, question)
        if not proposed:
            raise ValueError("no answer can be told from this sentence and question; type it beside the question")
        ways = question_paraphrases(question, proposed, sentence)[:WORDINGS] if self._mixed else []
        sentences = statements_from_sentence(sentence, question, proposed) if sentence.strip() else []
        if self._mixed:  # what says the answer before all else teaches little there
            last = [text for text in sentences if text.rstrip('".').endswith(proposed.rstrip("."))]
            sentences = (last or sentences)[: STATEMENTS if ways else STATEMENTS + WORDINGS]
        self.draft = {
            **draft,
            "answer": answer or proposed,
            "statements": sentences if statements is None else typed["statements"],
            "wordings": ways if wordings is None else typed["wordings"],
        }

    def teach(
        self,
        statements: Sequence[str] | str,
        question: str,
        answer: str,
        passes: int | None = None,
        top_t: int | None = None,
        wordings: Sequence[str] | str = (),
    ) -> None:
        """Teach one fact on top of all that was taught before: all statements and wordings, pass by pass.

        Args:
            passes, top_t: As many as `limits` says by default.
            wordings: Other ways to ask the question, for a lab whose recipe teaches questions.

        Raises:
            ValueError: something is empty, out of range or too long, or the question stands in a statement.
        """
        if self.state == "running":
            raise ValueError("a lesson is under way; stop it first")
        fact = own_fact(statements, question, answer, wordings if self._mixed else None)
        top_t = int(self.limits["top_t"]) if top_t is None else top_t
        passes = int(self.limits["passes"]) if passes is None else passes
        recipe = self._recipe(fact)
        total = Teaching.of(self.lab, [fact], passes, recipe=recipe, earlier=self._rehearsed()).steps
        check_top_t(top_t, self.lab.slots)
        check_facts(self.lab, [fact])
        self.claim()
        with self._claim.lock:
            lesson = Lesson(fact, self._answer(fact.question), untaught_questions(fact, UNTAUGHT), passes, top_t)
        self.draft = {
            **self.draft,
            "question": fact.question,
            "answer": fact.answer,
            "statements": list(fact.statements),
            "wordings": list(fact.questions) if self._mixed else [],
            "taught": True,
        }
        says = any(answer_places(text, fact.answers) for text in fact.statements)
        self.note = "" if says else f"No statement says {fact.answer!r}; the model can hardly learn it from them."
        self._lesson = lesson
        self._go_on(self._train(lesson, passes, top_t, recipe, total))

    def stop(self) -> None:
        """End the lesson here; what it has taught so far stays."""
        super().stop()

    def undo(self) -> None:
        """Take the last lesson back: the model is bitwise as it was before it.

        Raises:
            ValueError: nothing has been taught.
        """
        self._halt()
        if not self._lessons:
            raise ValueError("there is no lesson to undo")
        gone = self._lessons.pop()
        self._taught = bool(self._lessons) or self._opened is not None
        self.live = {}
        with self._claim.lock:
            self._put_back()
            self._after()
        self.note = f"Undone: asked {gone.fact.question!r}, the model says {self._answer(gone.fact.question)!r} again."

    def reset(self) -> None:
        """Bring the base back, bitwise; all lessons are gone."""
        self._halt()
        with self._claim.lock:
            self.lab.reset()
            self._lessons, self.live, self._taught = [], {}, False
            self._opened, self.card = None, None
            self._after()
        self.note = "The base is back, bitwise."

    def ask(self, question: str) -> None:
        """Ask the model, as it is now, anything."""
        question = question.strip()
        if not question:
            raise ValueError("type a question first")
        with self._claim.lock:
            reply = self.lab.answer([question], form=asking_form(self.lab))[0]
        answered = {"question": question, "now": reply}
        self.answers = [answered, *(row for row in self.answers if row["question"] != question)][:6]

    def save(self, path: str | Path | None = None) -> None:
        """Save the rows that all lessons have changed; by default as the first free name of patch, patch-2, ...

        Raises:
            ValueError: nothing has been taught.
        """
        self._halt()
        if not self._lessons:
            raise ValueError("there is nothing to save yet; teach something first")
        self.note = save_patch(self._lessons[-1].patch, path)

    def to_html(self, path: str | Path = "teach.html", force: bool = False) -> Path:
        """Make a page of one file that holds the lab's base: whoever opens it teaches it, without Python.

        It is for labs of the shipped architecture; the shipped one makes a page of 14 MB. The base is left behind.

        Args:
            path: Ends in `.html`.
            force: Whether a page that is there may be replaced.

        Returns:
            The path.

        Raises:
            OSError: the page can't be written.
            ValueError: the lab is of another architecture, another panel is training, or there is such a page.
        """
        from smft_lab.widgets.teach_page import teach_page

        self.reset()
        return teach_page(self.lab, path, force=force)

    def as_code(self) -> str:
        """Python that teaches the lessons so far, one on top of the other; before the first, what stands in the form.

        Raises:
            ValueError: there is no lesson, and something in the form is empty.
        """
        draft, recipe = self.draft, self.lab.recipe
        lessons = [(lesson.fact, lesson.passes, lesson.top_t) for lesson in self._lessons]
        if not lessons:
            wordings = draft["wordings"] if self._mixed else None
            fact = own_fact(draft["statements"], draft["question"], draft["answer"], wordings)
            lessons = [(fact, int(self.limits["passes"]), int(self.limits["top_t"]))]
        lines = sharing.beginning(self.lab)
        if self._opened is not None:
            lines.append(f"smft.Patch.load({self._opened.name!r}).apply(lab)")
        if recipe is not None:
            lines.insert(0, "from dataclasses import replace\n")
        for fact, passes, top_t in lessons:
            lines.append(f"fact = {sharing.fact_code(fact)}")
            own = self._recipe(fact)
            options = {"passes": passes, "top_t": top_t, "probe_every": 0, **sharing.as_given([fact])}
            if recipe is None:
                options["lr"] = Sparse().resolved(self.lab).settings()["lr"] * FASTER
            call = sharing.written("run = smft.run(lab, [fact])", **options)
            if recipe is not None and own is not None and self._mixed:
                changed = {name: getattr(own, name) for name in ("statements", "questions", "learned_at")}
                inside = ", ".join(f"{name}={value!r}" for name, value in changed.items())
                call = f"{call[:-1]}, recipe=replace(lab.recipe, {inside}))"
            lines.append(call)
            lines.append("print(fact.question, lab.answer([fact.question]))")
        lines += ['run.patch.save("lesson.safetensors")', "# In a notebook: smft.widgets.Teach(lab)"]
        return "\n".join(lines) + "\n"

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """What was taught, the patch of all of it, and every answer and probe before and now."""
        rows = [["answer", row["question"], row["before"], row["now"]] for row in self.lessons]
        rows += [["probe", f"{row['title']} ({row['metric']})", row["base"], row["now"]] for row in self.probes]
        patch = self._lessons[-1].patch if self._lessons else self._opened
        table = pd.DataFrame(rows, columns=["what", "of", "before", "now"])
        return [lesson.fact for lesson in self._lessons], patch, table

    def _taken(self, patch: Patch) -> None:
        self._lessons, self._opened, self._taught, self.live = [], patch, True, {}
        self._leave_out()
        with self._claim.lock:
            self._measure_base()
            self._after()
        self.note = f"The model holds {patch.name} now: ask it, or teach on top of it. Reset brings the base back."

    def snapshot(self) -> Picture:
        """The slots changed since the base, and what every probe says before and after."""
        from smft_lab.charts.pictures import bars, heat, picture

        changed = torch.stack([in_cells(norms, "amax") for norms in row_changes(self.lab)]).sum(0)
        lines = [f"{row['question']} {row['before']} -> {row['now']}" for row in self.lessons]
        shares = [(row["title"].lower(), row["base"], row["now"]) for row in self.probes if row["metric"] == "em"]
        names = [f"{name}, {when}" for name, *_ in shares for when in ("base", "now")]
        stay = bars(
            names, [value for _, *both in shares for value in both], "exact match", "What should stay", share=True
        )
        says = " ".join(["The teach panel.", *(lines or ["Nothing has been taught yet."])])
        return picture(heat(changed, "Slots changed since the base", "norm of the change"), stay, says=says)

    def close(self) -> None:
        """End the lesson under way, keep what was taught, and take the panel off the screen."""
        if self._items is not None:
            self._runner.stop()
        super().close()

    # Under way

    def _answer(self, question: str) -> str:
        return self._answers([question])[0]

    def _answers(self, questions: list[str]) -> list[str]:
        return self.lab.answer(questions) if questions else []

    def _ends_itself(self) -> bool:
        """Whether a lesson ends when the fact is learned."""
        recipe = self.lab.recipe
        return self._mixed and recipe is not None and recipe.learned_at > 0

    def _rehearsed(self) -> list[Fact]:
        """The lessons so far, where they can come along in the batches of the next."""
        return [lesson.fact for lesson in self._lessons] if self._mixed else []

    def _recipe(self, fact: Fact) -> Recipe | None:
        """The lab's recipe, by which all is taught that stands in the form."""
        recipe = self.lab.recipe
        if not self._mixed or recipe is None:
            return recipe
        learned_at = min(recipe.learned_at, LEARNED_AT)
        return replace(recipe, statements=len(fact.statements), questions=len(fact.questions), learned_at=learned_at)

    def _train(
        self, lesson: Lesson, passes: int, top_t: int, recipe: Recipe | None, total: int
    ) -> Generator[dict, None, None]:
        view = {
            "question": lesson.fact.question,
            "answer": lesson.before,
            "right": False,
            "kept": None,
            "step": 0,
            "total": total,
            "loss": None,
            "slots": 0,
        }
        if self._leave_out(lesson.fact) or (self._base_probes is None and not self._lessons):
            yield {**view, "doing": "measuring what should stay"}
            self._measure_base()
        looked, wait = -math.inf, ASKED_EVERY
        tuned = Sparse(top_t=top_t).resolved(self.lab)
        method = replace(tuned, lr=tuned.settings()["lr"] * (FASTER if self.lab.recipe is None else 1))
        options = {"passes": passes, "recipe": recipe, "earlier": self._rehearsed()}
        run = finetune(self.lab, [lesson.fact], method, probe_every=0, **options)
        self._run = weakref.ref(run)
        for step in all_steps(run):
            lesson.steps = step.step
            lesson.slots |= {(table, slot) for table, slots in enumerate(step.slots) for slot in slots.tolist()}
            view |= {"step": step.step, "loss": step.loss, "slots": len(lesson.slots)}
            began = time.monotonic()
            if step.last:
                view["total"] = step.step  # it may end sooner
            if began - looked >= wait or step.last:
                view |= self._look(lesson.fact)
                looked = time.monotonic()
                wait = max(ASKED_EVERY, (looked - began) / ASKING)
            yield dict(view)
        if self.lab.recipe is not None:
            yield {**view, "doing": "measuring what should stay"}

    def _leave_out(self, *facts: Fact) -> bool:
        """Ask nothing more that these facts, the lessons so far or the opened patch change; whether that is new."""
        about = [*(lesson.fact for lesson in self._lessons), *facts]
        opened = [] if self._opened is None else self._opened.questions
        stays, kept = few(self.lab, about, opened), KeptQuestions(self.lab, about, opened)
        changed = (stays, kept.probe) != (self._stays, self._kept.probe)
        self._stays, self._kept = stays, kept
        return changed

    def _measure_base(self) -> None:
        """What the probes read of the model without the lessons."""
        with self.lab.at_base():
            self._base_probes = self._stays.measure(self.lab.model, self.lab.tokenizer)
            self._base_right = self._kept.right()

    def _put_back(self) -> None:
        """The base, with the lessons so far in it, or the patch that was opened before any."""
        self.lab.reset()
        patch = self._lessons[-1].patch if self._lessons else self._opened
        if patch is not None:
            patch.apply(self.lab)

    def _look(self, fact: Fact) -> dict:
        """What the model says now, and how much of what it knew it keeps; the picture of the table too."""
        reply = self._answer(fact.question)
        share = self._kept.share()
        self._draw()
        return {"answer": reply, "right": _is_right(reply, fact), "kept": share}

    def _draw(self) -> None:
        changed = torch.stack([in_cells(norms, "amax") for norms in row_changes(self.lab)]).sum(0)
        self.heat = changed.float().numpy().tobytes()

    def _ended(self, problem: BaseException | None) -> None:
        if problem is not None:
            self._failed(problem)
            return
        if self._items is not None:
            self._items.close()
        lesson, self._items = self._lesson, None
        self.release()
        with self._claim.lock:
            if lesson.steps:
                taught = [each.fact for each in [*self._lessons, lesson]]
                lesson.patch = Patch.between(self.lab, taught, about={"method": Sparse.key})
                self._lessons.append(lesson)
                self._taught = True
            self._after()
        self.state = "idle"

    def _after(self) -> None:
        """Ask every lesson's question again, and all others that were asked, and measure the probes.

        A lesson that was answered before, and isn't now, is told at once.
        """
        answered = {lesson["question"] for lesson in self.lessons if lesson["right"]}
        lesson_replies, others = (
            self.lab.answer(questions, form=form) if questions else []
            for questions, form in (
                ([lesson.fact.question for lesson in self._lessons], self.lab.form),
                ([row["question"] for row in self.answers], asking_form(self.lab)),
            )
        )
        replies = iter(self._answers([question for lesson in self._lessons for question in lesson.untaught]))
        now = base = self._base_probes or {}
        if now and (self._lessons or self._opened is not None):
            now = self._stays.measure(self.lab.model, self.lab.tokenizer)
        titles = {(probe.key, probe.metric): probe.short for probe in probes_in((p, m) for p in now for m in now[p])}
        if self.lab.recipe is not None:
            counts = {probe.name: probe_size(probe) for probe in self._stays}
            titles = {key: f"{title}, {counts[key[0]]}" for key, title in titles.items()}
        with self.hold_sync():
            self._draw()
            self.answers = [{**row, "now": text} for row, text in zip(self.answers, others, strict=True)]
            self.lessons = [
                {
                    "question": lesson.fact.question,
                    "answer": lesson.fact.answer,
                    "before": lesson.before,
                    "now": text,
                    "right": _is_right(text, lesson.fact),
                    "slots": len(lesson.patch),
                    "shared": self._sharing(lesson),
                    "others": [
                        {"question": question, "now": (reply := next(replies)), "right": _is_right(reply, lesson.fact)}
                        for question in lesson.untaught
                    ],
                }
                for lesson, text in zip(self._lessons, lesson_replies, strict=True)
            ]
            self.probes = [
                {
                    "name": name,
                    "title": titles[name, metric],
                    "metric": metric,
                    "base": base[name][metric],
                    "now": value,
                }
                for name, metrics in now.items()
                for metric, value in metrics.items()
                if metric != "f1"
            ]
            changed = bool(self._lessons or self._opened is not None)
            self.lost = self._kept.lost(self._base_right) if changed and self._base_right else []
            broken = [row for row in self.lessons if row["question"] in answered and not row["right"]]
            sentences = [f"{row['question']} is answered {row['now']!r} now, not {row['answer']!r}" for row in broken]
            if sentences:
                self.note = " ".join([self.note, f"This lesson broke an earlier one: {'; '.join(sentences)}."]).strip()
        self.announce()

    def _sharing(self, lesson: Lesson) -> list[dict]:
        """The other lessons that trained some of the same rows, most of them first."""
        shared = [(len(lesson.slots & other.slots), other) for other in self._lessons if other is not lesson]
        shared.sort(key=lambda pair: -pair[0])
        return [{"question": other.fact.question, "slots": count} for count, other in shared if count]

    def _halt(self) -> None:
        self._give_up()  # an interrupt may have left it
        self.claim()
        self.state = "idle"
        self.release()


def _is_right(reply: str, fact: Fact) -> bool:
    return bool(MATCHES[match_of([fact])][0](reply, fact.answers))
