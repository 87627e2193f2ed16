"""A page from a link: the top-t slider over runs that were computed before, in one file, with no kernel behind it."""

from __future__ import annotations

import base64
import datetime
import importlib.metadata
import math
import sys
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from smft_lab import __version__
from smft_lab.charts.style import looks, name_in_sentence
from smft_lab.experiments.compare import LIBRARIES, watched
from smft_lab.facts.fact import Fact, as_facts
from smft_lab.finetuning.methods import METHODS, STANDARD, Sparse
from smft_lab.lab import Lab
from smft_lab.ranges import seeds_of
from smft_lab.slots.reading import token_reads
from smft_lab.widgets import sharing
from smft_lab.widgets.kept import KeptQuestions
from smft_lab.widgets.page_file import check_path, page_text, write_page
from smft_lab.widgets.shared_runs import Asked, Course, Runner, SharedRun, computed, kept_run, planned
from smft_lab.widgets.top_t import TopT
from smft_lab.wording import counted
from smft_lab.writing import check_new

RULES, SEEDS, PLACES = ("tfidf", "tf", "random"), 2, 20
LARGEST = 10  # megabytes of a page
RUNS = ".runs"  # of the folder beside a page
STRIPS, TEXT = 24, 400  # facts whose tokens are shown, and letters of a text


def page(
    lab: Lab,
    facts: Sequence[Fact] | Fact,
    path: str | Path,
    *,
    methods: Sequence[str] = STANDARD,
    rules: Sequence[str] | None = None,
    top_t: Sequence[int] | None = None,
    seeds: int | Sequence[int] = SEEDS,
    force: bool = False,
    progress: bool | None = None,
    **options,
) -> Path:
    """Make a page of one file on which anybody can drag the top-t slider, without Python and without a network.

    Every t, rule and seed is run beforehand, which takes minutes. Each run is kept as it ends, in a folder beside the
    page (`page.runs` for `page.html`): after a stop, the same call goes on.

    Args:
        lab: A `Lab`; it holds its base afterwards.
        facts: What to teach.
        path: The page; its name ends in `.html`.
        methods: `sparse`, and others by their keys.
        rules: Rules by which `sparse` chooses slots; TF-IDF, reads alone and a random choice by default, and for a lab
            with a recipe, whose runs take long, TF-IDF alone.
        top_t: The slider's places; 20 by default, from 1 to all slots that one fact reads.
        seeds: How many (0, 1, ...), or which: of the facts' order, of LoRA's start and of random choices.
        force: Whether a page that is there may be replaced.
        progress: Whether to show how far it is; by default where somebody watches, in a notebook or a terminal.
        options: passes, order, loss_on, optimizer, lr (of `sparse`), evaluations and rephrase; as in `Comparison`.

    Returns:
        The path.

    Raises:
        OSError: the page can't be written.
        ValueError: an option is out of range, or there is such a page and `force` is not given.

    Examples:
        >>> made = smft.page(lab, smft.new_facts(2), "page.html", rules=("tfidf",), top_t=(10, 500), seeds=1, passes=1)
        >>> made.read_text().startswith("<!doctype html>")
        True
    """
    plan = Plan(lab, facts, methods, rules, top_t, seeds, **options)
    path = check_path(path, force)
    progress = watched() if progress is None else progress
    with tqdm(total=len(plan.runs), unit=" runs", leave=False, file=sys.stdout, disable=not progress) as bar:
        for done in plan.compute(path):
            bar.update(done - bar.n)
    return plan.write(path, force)


class Plan:
    """A page to be: what it shows, and the runs that it needs.

    Args:
        lab, facts, methods, rules, top_t, seeds, options: See `page`.
        title, command: What the page says of itself: a title, and the command that makes it again.

    Raises:
        ValueError: an option is out of range, or a statement is too long for the model.
    """

    def __init__(
        self,
        lab: Lab,
        facts: Sequence[Fact] | Fact,
        methods: Sequence[str] = STANDARD,
        rules: Sequence[str] | None = None,
        top_t: Sequence[int] | None = None,
        seeds: int | Sequence[int] = SEEDS,
        title: str | None = None,
        command: str = "",
        **options,
    ):
        self.lab, self.command = lab, command
        self.methods = [method for method in METHODS if method in methods] + sorted({*methods} - {*METHODS})
        self.rules = list(rules or (RULES if lab.recipe is None else RULES[:1]))
        self.seeds = list(seeds_of(seeds))
        self.given = as_facts(facts)
        self.course = Course.of(lab, self.given, **options)
        lab.reset()
        panel = TopT(lab, self.course.facts, runner="inline")
        try:
            self.limits, self.background = panel.limits, panel.background
            self.covers = {rule: panel.cover(rule, len(self.course.facts)) for rule in self.rules}
            self.pairs = {rule: panel.pairs(cover) for rule, cover in self.covers.items()}
        finally:
            panel.close()
        usual = Sparse().resolved(lab).settings()["top_t"]
        self.top_t = places(max(cover.most for cover in self.covers.values()), usual)
        if top_t is not None:
            self.top_t = sorted({int(t) if isinstance(t, Integral) else t for t in top_t})
        self.runs = planned(lab, self.methods, self.rules, self.top_t, self.seeds)
        self.usual = min(self.top_t, key=lambda t: abs(math.log(t / usual)))
        count = len(self.course.facts)
        self.title = title or f"Teach a language model {counted(count, 'new fact')}. What does it forget?"
        self.results: dict[SharedRun, dict] = {}

    def compute(self, path: Path, workers: int = 1, source: tuple[Path | None, str] | None = None) -> Iterator[int]:
        """Compute what is not in the folder of runs beside the page; each time, how many runs are done.

        Raises:
            OSError: nothing can be written into that folder.
            ValueError: it is a file.
        """
        folder = path.with_suffix(RUNS)
        check_new(folder / "run.json", force=True)
        yield 0
        for done, result in computed(self.lab, self.course, self.runs, folder, workers, source):
            self.results[SharedRun(**result["run"])] = result
            yield done

    def stored(self, path: Path) -> int:
        """How many of the runs are in the folder beside the page: workers may have ended some after a stop."""
        folder = path.with_suffix(RUNS)
        return sum(kept_run(folder, self.course, self.lab, run) is not None for run in self.runs)

    def write(self, path: Path, replace: bool = True) -> Path:
        """Write the page, whole or not at all.

        Args:
            replace: Whether a page that is there may be replaced.

        Raises:
            OSError: it can't be written.
            ValueError: it would be larger than 10 MB; or it is there and not to be replaced.
        """
        return write_page(path, self.html(), LARGEST, "; name fewer facts, rules or t", replace)

    def html(self) -> str:
        """The page as text."""
        return page_text(
            "shared_page.html",
            ["shared_page.js"],
            self.data(),
            title=self.title,
            lead=self.lead(),
            settings=self.settings(),
            command=self.command,
        )

    def lead(self) -> str:
        """What happened at the usual t, with the first rule; means over the seeds."""
        sentences = []
        for method in self.methods:
            sparse = METHODS[method].sparse
            t = self.usual if self.usual in self._t(self.rules[0]) else self.top_t[-1]
            rule, t = (self.rules[0], t) if sparse else ("", 0)
            ends = [self.results[SharedRun(method, seed, rule, t)]["points"][-1] for seed in self.seeds]
            learned, kept = mean(end[1] for end in ends), [end[2] for end in ends if end[2] is not None]
            words = f"{name_in_sentence(method)}{f' (t = {t:,})' if sparse else ''} learned {learned:.0%}"
            sentences.append(
                words + (f" and kept {mean(kept):.1%} of the {self.limits['kept']['facts']}" if kept else "")
            )
        passes = counted(self.course.passes, "pass", "passes")
        return f"After {passes}: {'; '.join(sentences)}."

    def _t(self, rule: str) -> list[int]:
        """The t of which there are runs: the rule `all` has none."""
        return self.top_t if rule != "all" else self.top_t[-1:]

    def settings(self) -> list[tuple[str, str]]:
        """How the page was made, for its foot."""
        course, lab = self.course, self.lab
        rates = {name: course.tuned(lab, name).settings() for name in self.methods}
        versions = {"smft-lab": __version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}
        seconds = sum(result["seconds"] for result in self.results.values())
        return [
            (
                "Model",
                f"{lab.model.num_parameters():,} parameters, {self.limits['slots']:,} slots"
                + (f" in each of {self.limits['tables']} tables" if self.limits["tables"] > 1 else ""),
            ),
            ("Passes over the facts", f"{course.passes}"),
            ("Order of the statements", course.order),
            ("Learned of each statement", course.loss_on),
            *(
                (f"{METHODS[method].short}: optimizer and learning rate", f"{used['optimizer']}, {used['lr']:g}")
                for method, used in rates.items()
            ),
            ("Runs", f"{len(self.runs)}, of {seconds / 60:.1f} minutes of one core in all"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("Made on", datetime.date.today().isoformat()),
        ]

    def data(self) -> dict:
        """All that the page's script draws."""
        base = Runner(self.lab, self.course).base()
        asked = Asked.of(self.lab, self.course.facts, KeptQuestions(self.lab, self.course.facts))
        texts: dict[str, int] = {}

        def text_of(text: str) -> int:
            return texts.setdefault(text[:TEXT], len(texts))

        def answers(replies: Sequence[str]) -> dict:
            right = "".join("01"[is_right] for is_right in asked.right(replies))
            return {"answers": [text_of(text) for text in replies], "right": right}

        def run(key: SharedRun) -> dict:
            result = self.results[key]
            ms = 1000 * result["trained"] / max(1, result["steps"])
            shown = {name: result[name] for name in ("points", "loss", "rows", "steps")}
            return {**shown, "ms": ms, **answers(result["answers"])}

        runs: dict = {}
        for method in self.methods:
            runs[method] = (
                [run(SharedRun(method, seed)) for seed in self.seeds]
                if not METHODS[method].sparse
                else {
                    rule: [[run(SharedRun(method, seed, rule, t)) for t in self._t(rule)] for seed in self.seeds]
                    for rule in self.rules
                }
            )
        limits = {name: self.limits[name] for name in ("slots", "tables", "side", "kept", "grouped", "mixed")}
        look_of = looks(self.methods)
        return {
            **limits,
            "t": self.top_t,
            "usual": self.usual,
            "rules": self.rules,
            "seeds": self.seeds,
            "methods": [
                {
                    "key": method,
                    "name": METHODS[method].short,
                    "whole": METHODS[method].title,
                    "light": look_of[method].light,
                    "dark": look_of[method].dark,
                }
                for method in self.methods
            ],
            "previews": {rule: self._preview(rule) for rule in self.rules},
            "background": base64.b64encode(self.background).decode(),
            "strips": self._strips(),
            "asked": {
                "questions": list(asked.questions),
                "accepted": [accepted[0] for accepted in asked.accepted],
                "facts": asked.facts,
            },
            "base": {"points": [base["point"]], **answers(base["answers"])},
            "runs": runs,
            "code": self._code(),
            "texts": list(texts),
        }

    def _preview(self, rule: str) -> dict:
        at = [self.covers[rule].at(t) for t in self.top_t]
        curves = {name: [round(shares[name], 5) for shares in at] for name in at[0]}
        return {**curves, "slots": base64.b64encode(self.pairs[rule]).decode()}

    def _strips(self) -> list[dict]:
        """Per fact the tokens of its first statement, with the slots each reads and their ranks by each rule."""
        ranks = {}
        for rule, cover in self.covers.items():
            ranks[rule] = torch.zeros(self.limits["tables"] * self.limits["slots"], dtype=torch.int64)
            ranks[rule][cover.slots] = cover.ranks
        strips = []
        for fact in self.course.facts[:STRIPS]:
            reads = token_reads(self.lab, fact.statements[0])
            table = [slots + table * self.limits["slots"] for table, slots in enumerate(reads.slots)]
            every = torch.cat(table, -1)
            tokens = [
                {"text": text, "ranks": {rule: sorted(ranks[rule][slots].tolist()) for rule in self.rules}}
                for text, slots in zip(reads.tokens, every, strict=True)
            ]
            strips.append(
                {
                    "question": fact.question,
                    "answer": fact.answer,
                    "text": fact.statements[0][:TEXT],
                    "statements": len(fact.statements),
                    "tokens": tokens,
                }
            )
        return strips

    def _code(self) -> list[str]:
        """Python that repeats a run, up to the settings that stand on the page."""
        course = self.course
        options = {
            "passes": course.passes,
            "order": course.order,
            "loss_on": course.loss_on,
            "lr": course.lr,
            "optimizer": course.optimizer,
            "probe_every": 0,
            **sharing.as_given(course.facts),
        }
        call = sharing.written("run = smft.run(lab, facts)", **options)
        return [*sharing.beginning(self.lab), *sharing.facts_lines(self.lab, course.facts), call]


def places(most: int, usual: int, count: int = PLACES) -> list[int]:
    """So many t from 1 to `most`, if there are, about evenly spread on a log scale; the usual one among them."""
    grid, points = {1, most}, count
    while len(grid) < min(count, most):
        grid = {round(math.exp(x)) for x in torch.linspace(0, math.log(most), points).tolist()}
        points += 1
    if usual < most and usual not in grid:
        inner = grid - {1, most}
        grid -= {min(inner, key=lambda t: abs(math.log(t / usual)))} if inner else set()
        grid.add(usual)
    return sorted(grid)
