"""The top-t panel: drag the slider, see which slots would change, let go, and watch the model learn and forget."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd
import torch
import traitlets

from smft_lab.charts.style import kept_of
from smft_lab.facts.fact import Fact
from smft_lab.facts.files import FactsError, read_facts
from smft_lab.facts.own_facts import with_paraphrases
from smft_lab.finetuning.finetune import all_steps, check_facts, finetune
from smft_lab.finetuning.methods import Sparse
from smft_lab.finetuning.rows import OPTIMIZERS
from smft_lab.finetuning.teaching import Teaching, counted_reads
from smft_lab.lab import Lab
from smft_lab.ranges import check_counts
from smft_lab.slots.coverage import Coverage, coverage, fact_counts, group_coverage
from smft_lab.slots.patch import Patch
from smft_lab.slots.scores import RULES
from smft_lab.widgets import sharing
from smft_lab.widgets.drawn_table import cell_of, in_cells, side_of
from smft_lab.widgets.kept import KeptQuestions, asking_form, familiar_topics
from smft_lab.widgets.panel import page, save_patch, uploaded
from smft_lab.widgets.training_panel import TrainingPanel
from smft_lab.wording import counted

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

MEASURED_EVERY = 0.3  # least seconds of training between two points of a path
MEASURED_AT_FIRST = 5.0  # the same for a model from elsewhere, until a measurement was timed
MEASURING = 0.1  # most of the time that measuring them may take, beyond the points that a path has anyway
LEAST_POINTS = 24  # of a path, evenly spread, for it to be seen moving; a model from elsewhere has as many as it can
MEASURING_MORE = 0.3  # the same for a model from elsewhere, whose path would have two points else
PASSES = 8  # where no recipe says how many; fewer than elsewhere, as somebody waits


@dataclass
class RunPath:
    """One finetune on the plane: its points are (step, learned, kept), `rows` is how many it has trained so far.

    Attributes:
        rows: Once it is done, those that it has changed, which are the patch's.
        times: Seconds of each step.
        doing: What takes long at this moment, where it is no step.
    """

    name: str
    settings: dict
    points: list[tuple[int, float, float | None]] = field(default_factory=list)
    loss: float | None = None
    step: int = 0
    total: int = 0
    rows: int = 0
    seconds: float = 0.0
    times: list[float] = field(default_factory=list, repr=False)
    doing: str = ""
    patch: Patch = field(init=False, repr=False, compare=False)  # once it is done

    def view(self) -> dict:
        """What the page draws."""
        ms = 1000 * median(self.times) if self.times else None
        seen = {"name": self.name, "points": self.points, "loss": self.loss, "ms": ms, "doing": self.doing}
        return {**seen, "step": self.step, "total": self.total, "rows": self.rows, "settings": self.settings}


class TopT(TrainingPanel):
    """Teach facts by sparse memory finetuning, live.

    Dragging the slider shows at once which slots would change; letting go starts a finetune from the base. Every
    finished run leaves its path on the plane of learning against forgetting. What is taught, in which order and how
    slots are chosen is as the lab's recipe has it, where there is one.

    Args:
        lab: A `Lab`. The panel owns its model while it trains, and leaves it finetuned: `reset()` brings the base back.
        facts: What to teach.
        runner: `thread`, `tick` or `inline`; what suits the notebook by default.
        theme: `auto`, `light` or `dark`.

    Raises:
        ValueError: there are no facts, or a statement is too long for the model.
    """

    lab: Lab
    _esm = page("top_t.js")
    title, takes_patches = "Top-t: learned and forgotten", True
    commands = ("choose", "commit", "teach", "stop", "step", "undo", "reset", "ask", "save", "take_facts")

    settings = traitlets.Dict().tag(sync=True)
    limits = traitlets.Dict().tag(sync=True)
    preview = traitlets.Dict().tag(sync=True)
    slots = traitlets.Bytes(b"").tag(sync=True)  # uint32 pairs: cell of the drawn table, best rank
    background = traitlets.Bytes(b"").tag(sync=True)  # uint8 per cell of the drawn table
    runs = traitlets.List().tag(sync=True)
    live = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    answers = traitlets.List().tag(sync=True)

    def __init__(self, lab: Lab, facts: Sequence[Fact], *, runner: str | None = None, theme: str = "auto"):
        facts = with_paraphrases(facts, lab.recipe)
        check_facts(lab, facts)
        tuned = Sparse().resolved(lab).settings()
        super().__init__(lab, runner, theme)
        recipe = lab.recipe
        self._grouped = recipe is not None and recipe.choice == "group"  # slots are chosen once, before any step
        self._path: RunPath  # of the run under way
        self._usual_t = min(tuned["top_t"], lab.slots)  # told exactly, wherever the slider's other places are
        self.settings = {
            "top_t": self._usual_t,
            "rule": "tfidf",
            "optimizer": tuned["optimizer"],
            "lr": None,
            "passes": PASSES,
            "facts": 1,
        }
        self.background = self._background_cells()
        self._take(facts)

    def _take(self, facts: list[Fact]) -> None:
        """Be about these facts: nothing is known of them yet, and none of them was taught."""
        lab, recipe = self.lab, self.lab.recipe
        self.facts = facts
        self._counts = None
        # Per number of facts: the fact of each taught text, and its reads.
        self._read: dict[int, tuple[list[int], list[list[torch.Tensor]]]] = {}
        self._base_points: dict[int, tuple] = {}
        self._paths: list[RunPath] = []
        self._opened: Patch | None = None  # in the model, from a file
        self._kept = KeptQuestions(lab, facts)
        self._batches: dict = {}  # what a run computed that the next need not
        self._shown: tuple | None = None
        settings = {**self.settings, "facts": min(len(facts), 32)}
        if recipe is not None:
            settings["passes"] = Teaching.of(lab, facts[: settings["facts"]]).passes
        self.limits = {
            "slots": lab.slots,
            "tables": len(lab.usage.df),
            "facts": len(facts),
            "rules": list(RULES),
            "optimizers": sorted(OPTIMIZERS),
            "rates": {name: Sparse(optimizer=name).resolved(lab).lr for name in sorted(OPTIMIZERS)},
            "questions": [fact.question for fact in facts[:50]] + list(self._kept.questions[:20]),
            "kept": self._kept.words(),
            "grouped": self._grouped,
            "mixed": recipe is not None and recipe.order == "mixed",
            "side": side_of(lab.slots),
            "familiar": familiar_topics(lab),
        }
        self.settings = settings
        self._preview()

    # Settings and their preview

    def choose(self, **settings) -> None:
        """Take over some of `top_t`, `rule`, `optimizer`, `lr`, `passes`, `facts`, and preview them.

        Raises:
            ValueError: a setting is out of range.
        """
        wanted = self.with_settings(settings)
        check_counts(facts=wanted["facts"])
        if not 1 <= wanted["facts"] <= len(self.facts):
            raise ValueError(f"facts must be between 1 and {len(self.facts)}, not {wanted['facts']}")
        Teaching.of(self.lab, self.facts[:1], wanted["passes"])  # raises on what can't be taught
        self._method(wanted).check(self.lab, self.lab.recipe)
        self.settings = wanted
        self._preview()

    def _method(self, settings: dict) -> Sparse:
        chosen = {name: settings[name] for name in ("top_t", "rule", "lr", "optimizer")}
        return Sparse(**chosen).resolved(self.lab)

    def _preview(self) -> None:
        about = (self.settings["rule"], self.settings["facts"])
        if about == self._shown:
            return
        self.coverage: Coverage = self.cover(*about)
        most = self.coverage.most
        grid = sorted(
            {round(math.exp(x)) for x in torch.linspace(0, math.log(most), 120).tolist()}
            | {1, min(self._usual_t, most), most}
        )
        at = [self.coverage.at(t) for t in grid]
        self.preview = {"t": grid, **{name: [round(shares[name], 5) for shares in at] for name in at[0]}}
        self.slots = self.pairs(self.coverage)
        self._shown = about

    def pairs(self, cover: Coverage) -> bytes:
        """uint32 pairs: the cell of the drawn table and the rank of every slot that the facts read, best first."""
        cells = cell_of(cover.slots % self.lab.slots, self.lab.slots)
        return torch.stack([cells, cover.ranks], 1).to(torch.int32).numpy().tobytes()

    def cover(self, rule: str, facts: int) -> Coverage:
        """What each t would choose for the first so many facts, the way the finetune chooses."""
        if not self._grouped:
            if self._counts is None:
                with self._claim.lock:
                    self._counts = fact_counts(self.lab, self.facts)
            return coverage(self.lab, self._counts[:facts], rule)
        if facts not in self._read:  # which tokens count depends on all the facts of a group
            group = self.facts[:facts]
            with self._claim.lock:
                texts = Teaching.of(self.lab, group).texts
                counted = "all" if self.lab.recipe is None else self.lab.recipe.counted
                self._read[facts] = counted_reads(self.lab, group, texts, counted)
        return group_coverage(self.lab, *self._read[facts], rule)

    def _background_cells(self) -> bytes:
        """Background reads per cell on a log scale, 0 to 255."""
        heat = torch.log1p(torch.stack([in_cells(count, "sum") for count in self.lab.usage.count]).sum(0))
        return (heat / heat.max().clamp(min=1) * 255).to(torch.uint8).numpy().tobytes()

    # Commands

    def commit(self, settings: dict) -> None:
        """The slider was let go: take the settings over and start anew from the base."""
        self._halt()
        self.choose(**settings)
        self.teach()

    def teach(self, settings: dict | None = None) -> None:
        """Start a finetune from the base, or go on with the one that was stopped.

        Args:
            settings: Taken over first, so that what is taught is what a person sees.

        Raises:
            ValueError: a setting is out of range, or another panel is training.
        """
        if self.state == "running":
            return
        if settings:
            self.choose(**settings)
        self._go_on(self._begin())

    def step(self, settings: dict | None = None) -> None:
        """One gradient step, of the finetune that was stopped or of a new one; see `teach`."""
        if self.state == "running":
            self.stop()
        if settings:
            self.choose(**settings)
        items = self._begin()
        with self._claim.lock:
            last = next(items, None)
            while last is not None and (last["step"] == 0 or last["doing"]):  # the base, before any step
                last = next(items, None)
        if last is None:
            self._ended(None)
        else:
            if self._path.points[-1][0] != self._path.step:
                self._path.points.append(self._point(self._path.step))
            self.live = self._path.view()
            self.state = "paused"

    def undo(self) -> None:
        """Forget the last run: the model is as it was before it, and its path leaves the plane."""
        self._halt()
        if self._opened is None and not self._paths:
            raise ValueError("there is no run to undo")
        if self._opened is None:
            self._paths.pop()
        self._opened, self.card = None, None
        self._taught = bool(self._paths)
        self.lab.reset()
        if self._paths:
            self._paths[-1].patch.apply(self.lab)
        self.runs = [path.view() for path in self._paths]
        self._ask_again()
        self.announce()
        self.note = "Undone: the model is as it was before that run."

    def reset(self) -> None:
        """Bring the base back, bitwise; finished paths stay on the plane."""
        self._halt()
        self.lab.reset()
        self._taught, self._opened, self.card = False, None, None
        self._ask_again()
        self.announce()
        self.note = "The base is back, bitwise."

    def open_facts(self, facts: Sequence[Fact] | str | Path) -> None:
        """Teach other facts from now on, such as those of a file: the base is back, and the plane is empty.

        A model needs more than a sentence or two of each: what rules add is taught, too (see `with_paraphrases`).

        Raises:
            ValueError: there are no facts, the file has a mistake (`FactsError`), a statement is too long for the
                model, or another panel is training.
        """
        facts = read_facts(facts) if isinstance(facts, str | Path) else facts
        facts = with_paraphrases(facts, self.lab.recipe)
        check_facts(self.lab, facts)
        self._halt()
        with self._claim.lock:
            self.lab.reset()
        self._taught, self.card = False, None
        with self.hold_sync():
            self._take(facts)
            self.runs, self.live, self.answers = [], None, []
        self.announce()
        self.note = f"{counted(len(facts), 'fact')} to teach now. The base is back, bitwise."

    def take_facts(self, name: str, data: str) -> None:
        """Open a file of facts that came with the page, in base64; see `open_facts`."""
        with uploaded(name, data) as file:
            try:
                self.open_facts(file)
            except FactsError as problem:
                raise FactsError(str(problem).replace(str(file), file.name)) from None

    def ask(self, question: str) -> None:
        """Ask the model as it is now, and the base model, in the words of a person."""
        question = question.strip()
        if not question:
            raise ValueError("type a question first")
        with self._claim.lock:
            now = self.lab.answer([question], form=asking_form(self.lab))[0]
            base = self._base_answer(question) if self._changed() else now
        rest = [row for row in self.answers if row["question"] != question]
        self.answers = [{"question": question, "base": base, "now": now}, *rest][:8]

    def _ask_again(self) -> None:
        """The model is another now: what was asked before is asked anew."""
        if self.answers:
            with self._claim.lock:
                asked = [row["question"] for row in self.answers]
                replies = self.lab.answer(asked, form=asking_form(self.lab))
            self.answers = [{**row, "now": text} for row, text in zip(self.answers, replies, strict=True)]

    def save(self, path: str | Path | None = None) -> None:
        """Save the rows that the last run changed; by default as the first free name of patch, patch-2, ...

        Raises:
            ValueError: no run has ended yet.
        """
        self._halt()
        if not self._paths:
            raise ValueError("there is nothing to save yet; teach something first")
        self.note = save_patch(self._paths[-1].patch, path)

    def as_code(self) -> str:
        """Python that repeats the run of the settings that stand in the panel."""
        chosen, lab = self.settings, self.lab
        options = {
            "top_t": chosen["top_t"],
            "rule": chosen["rule"],
            "optimizer": chosen["optimizer"],
            "lr": chosen["lr"],
            "passes": chosen["passes"],
            **sharing.as_given(self.facts),
        }
        lines = [
            *sharing.beginning(lab),
            *sharing.facts_lines(lab, self.facts, chosen["facts"]),
            sharing.written("run = smft.run(lab, facts)", **options),
            'print(run.table.pivot_table(index="step", columns="probe", values="value"))',
            'run.patch.save("facts.safetensors")',
            "# In a notebook: smft.widgets.TopT(lab, facts)",
        ]
        return "\n".join(lines) + "\n"

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """The facts that are taught, the patch of the last run, and every point of every run."""
        columns = ["run", *self.settings, "step", "learned", "kept"]
        rows = [[path.name, *path.settings.values(), *point] for path in self._every_path() for point in path.points]
        patch = self._paths[-1].patch if self._paths else None
        return self.facts[: self.settings["facts"]], patch, pd.DataFrame(rows, columns=columns)

    def _taken(self, patch: Patch) -> None:
        self._taught, self._opened = True, patch
        self._ask_again()
        self.note = f"The model holds {patch.name} now: ask it below. Reset brings the base back."

    def to_html(self, path: str | Path = "page.html", force: bool = False, **options) -> Path:
        """Make a page of one file that is this panel without a kernel, for whoever has no Python; see `smft.page`.

        It teaches as the fields say, with the rule that is chosen there, full finetuning and LoRA beside it, and one
        seed. Every t is run beforehand, which takes minutes; the base is left behind.

        Args:
            path: Ends in `.html`.
            force: Whether a page that is there may be replaced.
            options: Of `smft.page`, such as `rules`, `top_t` and `seeds`.

        Returns:
            The path.

        Raises:
            OSError: the page can't be written.
            ValueError: an option is out of range, another panel is training, or there is such a page.
        """
        from smft_lab.widgets.shared_page import page

        self._halt()
        chosen = self.settings
        given = {name: chosen[name] for name in ("passes", "optimizer", "lr")}
        given |= {"rules": (chosen["rule"],), "seeds": 1, "rephrase": False, "force": force}
        self.claim()
        try:
            made = page(self.lab, self.facts[: chosen["facts"]], path, **{**given, **options})
        finally:
            self.release()
            self._taught, self._opened, self.card = False, None, None
            self.announce()
        self._ask_again()
        self.note = f"{made} is a page that opens anywhere. The base is back."
        return made

    def snapshot(self) -> Picture:
        """What every t would choose, and the plane with every run so far."""
        from smft_lab.charts.pictures import curves, picture, plane

        kept = kept_of(probe.name for probe in self.lab.probes).key
        rows = [
            {"method": path.name, "seed": 0, "step": step, "probe": probe, "metric": "em", "value": value}
            for path in self._every_path()
            for step, *values in path.points
            for probe, value in zip(("learned", kept), values, strict=True)
            if value is not None
        ]
        reads = {"of the facts' reading": "of_facts", "of all background reading": "of_background"}
        shares = {name: (self.preview["t"], self.preview[column]) for name, column in reads.items()}
        marks = {f"t = {self.settings['top_t']:,}": self.settings["top_t"]}
        per = "fact" if self._grouped else "step"
        chosen = curves(
            shares, f"t, slots per {per}", "share of reads", "The slots chosen", log="x", share=True, marks=marks
        )
        table = pd.DataFrame(rows, columns=["method", "seed", "step", "probe", "metric", "value"])
        says = f"The top-t panel: t is {self.settings['top_t']}; {len(self._every_path())} runs are on the plane."
        return picture(chosen, plane(table, "Learned and forgotten"), says=says)

    def close(self) -> None:
        """Stop, give the lab up with what was taught so far, and take the panel off the screen."""
        self._runner.stop()
        if self._items is not None:
            self._keep()
        self._batches, self._counts, self._read = {}, None, {}  # a notebook's Out may keep the panel itself
        super().close()

    # Under way

    def _begin(self) -> Generator[dict, None, None]:
        """A finetune from the base, unless one is waiting to go on."""
        if self._items is not None and self._path.settings != self.settings:
            self._keep(state=self.state)  # not idle for a moment: another run follows at once
        self.claim()
        if self._items is not None:
            return self._items
        self._taught, self._opened, self.card = False, None, None
        with self._claim.lock:
            self.lab.reset()
        self._path = RunPath(self._run_name(), dict(self.settings))
        self.note = ""
        self._items = items = self._train(self._path)
        return items

    def _run_name(self) -> str:
        """What tells the run to come from those on the plane: its t, and what else is not as in the first of them."""
        chosen, first = self.settings, (self._paths[0].settings if self._paths else self.settings)
        parts = ["all read slots" if chosen["rule"] == "all" else f"t = {chosen['top_t']:,}"]
        if chosen["rule"] not in ("tfidf", "all"):
            parts.append(chosen["rule"])
        if chosen["optimizer"] != first["optimizer"]:
            parts.append(chosen["optimizer"])
        if chosen["lr"] != first["lr"]:
            parts.append(f"rate {self._method(chosen).lr:g}")
        for name, noun in (("passes", "pass"), ("facts", "fact")):
            if chosen[name] != first[name]:
                parts.append(counted(chosen[name], noun, name))
        name = ", ".join(parts)
        again = sum(path.settings == chosen for path in self._paths)
        return f"{name} ({again + 1})" if again else name

    def _train(self, path: RunPath) -> Generator[dict, None, None]:
        """One view of the path per gradient step; measures often enough for the eye, and at the end."""
        chosen = path.settings
        facts = self.facts[: chosen["facts"]]
        path.total = Teaching.of(self.lab, facts, chosen["passes"]).steps
        slow = self.lab.recipe is not None  # a measurement takes seconds: say so, and take few
        if slow and chosen["facts"] not in self._base_points:
            path.doing = "asking the base"
            yield path.view()
        path.points.append(self._base_point(chosen["facts"]))
        path.doing = "choosing slots" if slow else ""
        if slow:
            yield path.view()
        written = torch.zeros(self.limits["tables"], self.lab.slots, dtype=torch.bool)
        wait, since = MEASURED_AT_FIRST if slow else MEASURED_EVERY, time.monotonic()
        often = 0 if slow else min(LEAST_POINTS, path.total)
        run = finetune(
            self.lab, facts, self._method(chosen), passes=chosen["passes"], probe_every=0, cache=self._batches
        )
        self._run = weakref.ref(run)
        for step in all_steps(run):
            path.times += [step.seconds - path.seconds] if step.step else []
            path.step, path.loss, path.seconds = step.step, step.loss, step.seconds
            for table, slots in zip(written, step.slots, strict=False):  # none at step 0
                table[slots] = True
            path.rows = int(written.sum())
            path.doing = "choosing slots" if slow and not step.step else ""
            now = time.monotonic()
            path.total = step.step if step.last else path.total  # it may end sooner
            due = step.step * often >= path.total * len(path.points)
            if step.last or (step.step and (now - since >= wait or (often and due))):
                if slow:
                    path.doing = "asking what it knows"
                    yield path.view()
                    path.doing = ""
                path.points.append(self._point(step.step))
                since = time.monotonic()
                wait = max(MEASURED_EVERY, (since - now) / (MEASURING_MORE if slow else MEASURING))
            yield path.view()

    def _base_point(self, facts: int) -> tuple[int, float, float | None]:
        """The point that every path of so many facts begins at; measured once, with the base in place."""
        if facts not in self._base_points:
            self._base_points[facts] = self._point(0)
        return self._base_points[facts]

    def _point(self, step: int) -> tuple[int, float, float | None]:
        """(step, share of new facts learned, share of what was known kept); None where nothing was known."""
        facts = self.facts[: self._path.settings["facts"]]
        asked, answers = [fact.question for fact in facts], [fact.answer for fact in facts]
        right = self.lab.recalled(asked, answers)
        return step, right.double().mean().item(), self._kept.share()

    def _ended(self, problem: BaseException | None) -> None:
        """The runner stopped: for good if the run is over or failed, else until the next Teach."""
        if problem is not None:
            self._failed(problem)
        elif self._can_go_on() and self._path.step < self._path.total:
            self._ask_again()
            self.state = "paused"
        else:
            self._keep()

    def _keep(self, state: str = "idle") -> None:
        """Put the run that ended on the plane."""
        path, self._items = self._path, None
        with self._claim.lock:
            taught = self.facts[: path.settings["facts"]]
            path.patch = Patch.between(self.lab, taught, about={"method": Sparse.key, **path.settings})
            path.rows = len(path.patch)  # of those that were trained, some may be as they were
        self.release()
        self._taught = True
        self._ask_again()
        if path.step:
            self._paths.append(path)
        with self.hold_sync():
            self.runs = [each.view() for each in self._paths]
            self.live = None
            self.state = state
        self.announce()

    def _halt(self) -> None:
        """Stop; a run that is cut off half-way leaves the path it has gone."""
        self._runner.stop()
        if self._items is not None:
            self._keep()
        self.claim()
        self.release()
        self.state = "idle"

    def _every_path(self) -> list[RunPath]:
        return [*self._paths, *([self._path] if self._items is not None else [])]

    def _changed(self) -> bool:
        return self._items is not None or bool(self._paths) or self._opened is not None

    def _base_answer(self, question: str) -> str:
        with self.lab.at_base():
            return self.lab.answer([question], form=asking_form(self.lab))[0]
