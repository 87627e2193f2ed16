"""The compare panel: sparse memory finetuning, full finetuning and LoRA taught the same facts, side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
import traitlets

from smft_lab.charts.paths import learned_and_kept
from smft_lab.charts.style import Kept, Probe, kept_of, learned_little, looks, ordered, probes_in, short_name
from smft_lab.experiments.compare import COLUMNS, REPORT, Comparison
from smft_lab.experiments.equal import TARGET
from smft_lab.facts.fact import Fact
from smft_lab.finetuning.methods import STANDARD, Method, Sparse, method_of
from smft_lab.finetuning.teaching import Teaching, stream_order
from smft_lab.lab import Lab
from smft_lab.probes.choices import ChoiceProbe
from smft_lab.probes.probes import QuestionProbe, TextProbe, probes_of
from smft_lab.ranges import check_counts
from smft_lab.slots.patch import Patch
from smft_lab.widgets import sharing
from smft_lab.widgets.kept import asking_form, familiar_topics
from smft_lab.widgets.panel import page
from smft_lab.widgets.training_panel import TrainingPanel

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

ASKABLE = 2**31  # bytes: the finetuned weights of larger models are not kept for questions
METRICS = {QuestionProbe: ("em",), TextProbe: ("nll",), ChoiceProbe: ("acc", "acc_norm")}  # that are shown
EVALUATIONS = 12
REPORT_FOLDER = "comparison"  # in an exported folder
PASSES = 8  # fewer than elsewhere: somebody waits


def _written(method: Method, top_t: int | None) -> str:
    """Python of a method: its key, or what makes it where t is chosen."""
    if not isinstance(method, Sparse) or top_t is None:
        return repr(method.name)
    rule = "" if method.rule == Sparse.rule else f", rule={method.rule!r}"
    return f"smft.Sparse(top_t={top_t}{rule})"


class Compare(TrainingPanel):
    """Teach the same facts by several methods, live, and see what each forgets.

    Args:
        lab: A `Lab`; every method starts from its base, and the base is left behind.
        facts: What to teach.
        methods: See `smft_lab.compare`; `sparse:tf` and the like are controls.
        runner: `thread`, `tick` or `inline`; what suits the notebook by default.
        theme: `auto`, `light` or `dark`.
        settings: count (of facts), passes, seeds, top_t and evaluations to begin with.

    Raises:
        ValueError: a setting is out of range, or a statement is too long for the model.
    """

    lab: Lab
    _esm = page("compare.js")
    title = "Learned and forgotten, method by method"
    commands = ("choose", "start", "stop", "reset", "ask")

    limits = traitlets.Dict().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)  # the settings of the comparison that is shown; {} before the first
    paths = traitlets.List().tag(sync=True)  # {method, seed or None for the mean, points: [[step, learned, kept]]}
    numbers = traitlets.List().tag(sync=True)  # one row per method, the base first
    retention = traitlets.Dict().tag(
        sync=True
    )  # method: {steps, questions, recalled: a row per measurement, 0/1 per fact}
    progress = traitlets.Dict().tag(sync=True)
    verdict = traitlets.List().tag(sync=True)  # lines at equal learning, when all is done
    answers = traitlets.List().tag(sync=True)

    def __init__(
        self,
        lab: Lab,
        facts: Sequence[Fact],
        methods: Sequence[str] = STANDARD,
        *,
        runner: str | None = None,
        theme: str = "auto",
        **settings,
    ):
        self.facts = list(facts)
        self.methods = ordered(methods)
        super().__init__(lab, runner, theme)
        self._states: dict[str, dict[str, torch.Tensor]] = {}
        self.comparison: Comparison | None = None
        look = looks(self.methods)
        probes = probes_of(lab, self.facts)
        old = [p for p in lab.probes.without(self.facts) if isinstance(p, QuestionProbe)]
        self._measures = probes_in((p.name, metric) for p in probes for metric in METRICS[type(p)])
        self._kept = kept_of(p.name for p in probes)
        self.limits = {
            "facts": len(self.facts),
            "slots": lab.slots,
            "target": TARGET,
            "familiar": familiar_topics(lab),
            "kept": {"name": self._kept.key, "facts": self._kept.facts, "title": self._kept.title},
            "measures": [
                {"name": _column(p), "title": p.short, "share": p.is_share, "learned": p.is_learned}
                for p in self._measures
            ],
            "methods": {
                name: {"name": short_name(name), "light": look[name].light, "dark": look[name].dark}
                for name in self.methods
            },
            "questions": [f.question for f in self.facts[:30]] + [q for p in old for q in p.questions[:10]],
        }
        count = min(len(self.facts), 24)
        passes = PASSES if lab.recipe is None else Teaching.of(lab, self.facts[:count]).passes
        begin = {
            "count": count,
            "passes": passes,
            "seeds": 1,
            "top_t": None,
            # A measurement of a model from elsewhere takes many seconds.
            "evaluations": EVALUATIONS if lab.recipe is None else min(max(2, passes // 2), 6),
        }
        self.settings = begin
        self.choose(**settings)

    # Commands

    def choose(self, **settings) -> None:
        """Take over some settings for the next start; `top_t` None is the tuned one.

        Raises:
            ValueError: a setting is out of range.
        """
        wanted = self.with_settings(settings)
        check_counts(facts=wanted["count"], seeds=wanted["seeds"])
        if not 1 <= wanted["count"] <= len(self.facts):
            raise ValueError(f"facts must be between 1 and {len(self.facts)}, not {wanted['count']}")
        self._made(wanted)  # raises on what can't be compared
        self.settings = wanted

    @property
    def _run(self):
        return self.comparison and self.comparison.under_way

    def _made(self, settings: dict) -> Comparison:
        chosen = {name: settings[name] for name in ("passes", "evaluations")}
        methods = {name: self._method(name, settings["top_t"]) for name in self.methods}
        return Comparison(self.lab, self.facts[: settings["count"]], methods, seeds=range(settings["seeds"]), **chosen)

    def _method(self, name: str, top_t: int | None) -> Method:
        method = method_of(name)
        return replace(method, top_t=top_t) if isinstance(method, Sparse) else method

    def start(self, settings: dict | None = None) -> None:
        """Begin from the base, or go on with what was stopped.

        Args:
            settings: Taken over before a new comparison begins, so that it has those that a person sees.

        Raises:
            ValueError: a setting is out of range, or another panel is training.
        """
        if self.state == "running":
            return
        if settings and self._items is None:
            self.choose(**settings)
        self.claim()
        if self._items is None:
            self.comparison = self._made(self.settings)
            self._states, self.verdict, self.answers, self.note = {}, [], [], ""
            self.paths, self.numbers, self.retention, self.progress = [], [], {}, {}
            self.shown = dict(self.settings)
            self._retention: dict[str, dict] = {
                name: {"steps": [], "recalled": [], "questions": []} for name in self.methods
            }
            self._items = self._train(self.comparison)
        self._go_on(self._items)

    def reset(self) -> None:
        """Drop the comparison, shown or under way; the base is back."""
        self._give_up()
        self._states = {}
        self.claim()
        self.lab.reset()
        self.release()
        self.announce()
        with self.hold_sync():
            self.paths, self.numbers, self.retention, self.progress, self.shown = [], [], {}, {}, {}
            self.verdict, self.answers, self.state, self.note = [], [], "idle", "The base is back, bitwise."

    def ask(self, question: str) -> None:
        """Ask the base and every finetuned model (of the first seed) the same question.

        Raises:
            ValueError: a run is under way, or nothing was taught.
        """
        question = question.strip()
        if not question:
            raise ValueError("type a question first")
        if self._items is not None:
            raise ValueError("wait for the comparison to end, or press Reset; then all models can be asked")
        self.claim(take=False)
        try:
            with self._claim.lock, self.lab.at_base():  # another panel may have left the model finetuned
                replies = {"question": question, "base": self._answer(question)}
                for name, changed in self._states.items():
                    self._put(changed)
                    replies[name] = self._answer(question)
                    self.lab.reset()
        finally:
            self.release()
        self.answers = [replies, *(asked for asked in self.answers if asked["question"] != question)][:8]

    def _answer(self, question: str) -> str:
        return self.lab.answer([question], form=asking_form(self.lab))[0]

    def _changes(self) -> dict[str, torch.Tensor]:
        """What of the model differs from the base."""
        entries = self.lab.model.state_dict().items()
        return {name: tensor.clone() for name, tensor in entries if not torch.equal(tensor, self.lab.base(name))}

    @torch.no_grad()
    def _put(self, changed: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.lab.model.state_dict().items():
            if name in changed:
                tensor.copy_(changed[name])

    def as_code(self) -> str:
        """Python that makes the comparison of the settings that stand in the panel."""
        chosen = self.settings
        options = {name: chosen[name] for name in ("seeds", "passes", "evaluations")}
        methods = [_written(method_of(name), chosen["top_t"]) for name in self.methods]
        usual = tuple(self.methods) == STANDARD and chosen["top_t"] is None
        call = "smft.compare(lab, facts)" if usual else f"smft.compare(lab, facts, [{', '.join(methods)}])"
        lines = [
            *sharing.beginning(self.lab),
            *sharing.facts_lines(self.lab, self.facts, chosen["count"]),
            sharing.written(f"comparison = {call}", **options),
            "print(comparison)",
            'comparison.to_html("report.html")',
            "# In a notebook: smft.widgets.Compare(lab, facts)",
        ]
        return "\n".join(lines) + "\n"

    def _export(self, path: Path) -> list[str]:
        """With the whole report where there is a run that has ended."""
        names = super()._export(path)
        comparison = self.comparison
        if comparison is None or comparison.finished_runs().empty:
            return names
        folder = path / REPORT_FOLDER
        folder.mkdir()
        comparison.write(folder, folder)
        return [*names, f"{REPORT_FOLDER}/{REPORT}"]

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """The facts, the patch of the first sparse run, and all that was measured."""
        comparison = self.comparison
        if comparison is None:
            return self.facts[: self.settings["count"]], None, pd.DataFrame(columns=COLUMNS)
        return self.facts[: comparison.n_facts], comparison.patch, comparison.table

    def snapshot(self) -> Picture:
        """The plane, and which share of the facts each method has learned after how many steps."""
        from smft_lab.charts.pictures import curves, picture, plane

        table = self.comparison.table if self.comparison is not None else pd.DataFrame(columns=COLUMNS)
        learned = table[(table["probe"] == "learned") & (table["metric"] == "em")]
        mean = learned.groupby(["method", "step"])["value"].mean()
        lines = {short_name(m): (mean[m].index.tolist(), mean[m].tolist()) for m in self.methods if m in mean}
        steps = curves(lines, "gradient steps", "new facts learned", "Learned, step by step", share=True, points=True)
        return picture(plane(table, "Learned and forgotten"), steps, says=self._told())

    def _told(self) -> str:
        lines = [
            f"{short_name(row['method'])} learned hardly anything ({row['learned']:.0%})."
            if row["little"]
            else f"{short_name(row['method'])} lost {100 * row['drop'][0]:.1f} points of {self._kept.facts} with "
            f"{row['learned']:.0%} learned."
            for row in self.verdict
        ]
        return " ".join(["The compare panel.", *(lines or ["No comparison has ended yet."])])

    def close(self) -> None:
        """Stop, bring the base back, and take the panel off the screen."""
        if self._items is not None:
            self._give_up()
            self.release()
        self._states = {}  # a notebook's Out may keep the panel itself
        super().close()

    # Under way

    def _train(self, comparison: Comparison) -> Generator[dict, None, None]:
        """One view of the progress per gradient step; what was measured is published at once."""
        began, measured = time.monotonic(), 0
        if self.lab.recipe is not None:  # its base takes long to measure, and nobody should wonder
            total = len(comparison.names) * sum(map(comparison.run_steps, comparison.seeds))
            yield {
                "method": comparison.names[0],
                "seed": comparison.seeds[0],
                "done": 0,
                "total": total,
                "loss": None,
                "left": None,
            }
        for progress in comparison.steps():
            if len(comparison.rows) > measured:
                measured = len(comparison.rows)
                self._measured(comparison, progress)
            if progress.last and progress.seed == comparison.seeds[0]:
                self._keep_state(progress.method)
            gone = time.monotonic() - began
            left = gone * (progress.total - progress.done) / max(1, progress.done)
            yield {
                "method": progress.method,
                "seed": progress.seed,
                "done": progress.done,
                "total": progress.total,
                "loss": progress.loss,
                "left": left if progress.done else None,
            }

    def _measured(self, comparison: Comparison, progress) -> None:
        if progress.seed == comparison.seeds[0]:
            facts = [self.facts[i] for i in stream_order(comparison.n_facts, progress.seed)]
            retention = self._retention[progress.method]
            asked, answers = [fact.question for fact in facts], [fact.answer for fact in facts]
            right = self.lab.recalled(asked, answers)
            retention["questions"] = asked
            retention["steps"].append(progress.step)
            retention["recalled"].append(right.int().tolist())
        table = comparison.table
        with self.hold_sync():
            self.retention = copy.deepcopy(self._retention)
            self.paths = _paths(table, self._kept)
            self.numbers = _numbers(table, comparison.costs, self._measures)

    def _keep_state(self, method: str) -> None:
        """Keep what the run changed, so that the finetuned model can be asked later."""
        self.lab.end()
        model = self.lab.model
        if sum(tensor.nbytes for tensor in model.state_dict().values()) <= ASKABLE:
            self._states[method] = self._changes()

    def _show(self, progress: dict) -> None:
        self.progress = progress
        self.announce()

    def _ended(self, problem: BaseException | None) -> None:
        """The runner stopped: for good if all is done or it failed, else until the next Start."""
        if problem is None and self.progress.get("done", 0) < self.progress.get("total", 1):
            self.state = "paused"
            return
        if problem is not None:
            self._failed(problem)
            return
        self._items, comparison = None, self.comparison
        self.release()
        assert comparison is not None
        with self.hold_sync():
            self.numbers = _numbers(comparison.table, comparison.costs, self._measures)
            self.verdict = self._verdict(comparison)
            self.state = "idle"
        self.announce()

    def _verdict(self, comparison: Comparison) -> list[dict]:
        """What each method lost of what was known where it had learned the target share, or at its best."""
        rows = [r for r in comparison.summary()["equal_learning"] if r["metric"] == "em"]
        of = {(r["method"], r["probe"]): r for r in rows}
        lines = []
        for name in self.methods:
            learned, old = of.get((name, "learned")), of.get((name, self._kept.key))
            if learned and old:
                reached = [learned["n_reached"], learned["n"]]
                drop = [old["drop_mean"], old["drop_low"], old["drop_high"]]
                lines.append(
                    {
                        "method": name,
                        "learned": learned["mean"],
                        "drop": drop,
                        "reached": reached,
                        "little": learned_little(learned),
                    }
                )
        return lines


def _paths(table: pd.DataFrame, kept: Kept) -> list[dict]:
    """Per method and seed the (step, learned, kept) of every measurement; with several seeds, their mean too."""
    drawn = learned_and_kept(table, kept)

    def points(rows: pd.DataFrame) -> list:
        held = rows["kept"].astype(object).where(rows["kept"].notna(), None)
        columns = rows["step"].tolist(), rows["learned"].tolist(), held.tolist()
        return [list(point) for point in zip(*columns, strict=True)]

    paths = []
    for name in table["method"].unique().tolist():
        runs = drawn.runs[drawn.runs["method"] == name]
        seeds = runs["seed"].unique().tolist()
        paths += [{"method": name, "seed": s, "points": points(runs[runs["seed"] == s])} for s in seeds]
        if len(seeds) > 1:
            paths.append({"method": name, "seed": None, "points": points(drawn.means[drawn.means["method"] == name])})
    return paths


def _column(probe: Probe) -> str:
    """What a probe is called among the numbers of a method."""
    return probe.key if probe.metric != "acc_norm" else f"{probe.key}_norm"


def _numbers(table: pd.DataFrame, costs: dict[str, list[dict]], measures: Sequence[Probe]) -> list[dict]:
    """Per method the newest measurement of every probe, mean over seeds, and what a step cost; the base first."""
    rows = []

    def row(name: str, runs: pd.DataFrame) -> dict:
        values = runs.groupby(["probe", "metric"])["value"].mean().to_dict()
        return {"method": name} | {_column(probe): values.get((probe.key, probe.metric)) for probe in measures}

    rows.append(row("base", table[table["step"] == 0]))
    for name, runs in table.groupby("method", sort=False):
        name = str(name)
        newest = runs[runs["step"] == runs.groupby("seed")["step"].transform("max")]
        cost = pd.DataFrame(costs.get(name, [])).median().to_dict()
        rows.append(row(name, newest) | {"step": int(newest["step"].max())} | cost)
    return rows
