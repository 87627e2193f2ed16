"""The sweep that gives each method its best rate, so that no baseline is shown at a bad one, and `sparse` its t."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from smft_lab.charts.style import KEPT, kept_of
from smft_lab.experiments.equal import TARGET, read_run
from smft_lab.experiments.run import history_rows
from smft_lab.facts.fact import Fact, as_facts
from smft_lab.finetuning.finetune import Step, all_steps, finetune
from smft_lab.finetuning.methods import Method
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.recipe import Recipe

SEEDS = (1000, 1001, 1002)  # of facts and their order; no comparison uses them by default
ALIKE = 0.0025  # of old facts: less than one question, which three seeds don't tell from none
READ = ("arithmetic", "prose", "text")  # probes of language kept, the telling one first
ASKED = ("learned", *(kept.key for kept in KEPT), "two_hop")
MEASURED = (*((probe, "em") for probe in ASKED), *((probe, "nll") for probe in READ))


def sweep(
    lab: Lab,
    facts: Sequence[Fact] | Callable[[int], Sequence[Fact]],
    methods: Sequence[Method],
    seeds: Sequence[int] = SEEDS,
    target: float = TARGET,
    evaluations: int = 12,
    *,
    passes: int | None = None,
    **options,
) -> Iterator[tuple[Method, Step | dict]]:
    """Try each of `methods` with every seed, from the base, until the target is learned; `options` go to `finetune`.

    Args:
        facts: What to teach, or a function from a seed to it.
        methods: What to try, such as the `candidates` of each method.

    Yields:
        (method, `Step`) while runs go on, and (method, row) when all seeds are done: a row of the sweep's table, with
        method, optimizer, lr, top_t (None but for `sparse`), reached (by every seed), and steps and the probes of
        `MEASURED` that the lab has, as read at equal learning, each the mean over seeds.
    """
    facts = facts if callable(facts) else as_facts(facts)
    for method in methods:
        method = method.resolved(lab, options.get("recipe"))
        readings, all_reached = [], True
        for seed in seeds:
            taught = as_facts(facts(seed)) if callable(facts) else facts
            lab.reset()
            rows: list[dict] = []
            order, loss_on, recipe = (options.get(name) for name in ("order", "loss_on", "recipe"))
            teaching = Teaching.of(lab, taught, passes, order, loss_on, seed, recipe)
            every = math.ceil(teaching.steps / evaluations)
            run = finetune(lab, taught, method, seed=seed, passes=passes, probe_every=every, **options)
            for step in all_steps(run):
                rows += history_rows(step)
                yield method, step
                if step.probes and step.probes["learned"]["em"] >= target:
                    break
            reached, values = read_run(pd.DataFrame(rows), target)
            all_reached &= bool(reached)
            readings.append({"steps": values["steps", ""]} | {key[0]: values[key] for key in MEASURED if key in values})
        settings = method.settings()
        tried = {"method": method.key} | {name: settings.get(name) for name in ("optimizer", "lr", "top_t")}
        yield method, {**tried, "reached": all_reached, **pd.DataFrame(readings).mean().to_dict()}
    lab.reset()


def best_settings(rows: list[dict], steps: float = math.inf) -> dict[str, dict]:
    """The defaults that a sweep's table gives, and a mark `chosen` on each of its rows.

    A setting can be chosen if every seed reached the target with it, on average within half of the run's steps: other
    facts have slower seeds, too. Of these, it is the one that keeps most old or known facts, or the fastest of those
    that keep less by no more than `ALIKE`; of equal ones, that with the lower nll of arithmetic, prose or text. Where
    no setting is so fast, it is chosen of all that reached the target; where none did, it is the one that learns most.

    Args:
        steps: Of a run that never reaches the target.

    Returns:
        `{method: {"optimizer", "lr", "lr_by_optimizer"}}`, for `sparse` with "top_t"; the rate of its other optimizer
        is the best at that t.
    """

    asked = kept_of(probe for row in rows for probe in row).key
    read = next((probe for probe in READ if any(probe in row for row in rows)), READ[0])

    def kept(row: dict) -> tuple:
        return (row.get(asked, 0.0), -row.get(read, 0.0))

    def best_of(rows: list[dict]) -> dict:
        reached = [row for row in rows if row["reached"]]
        if not reached:
            return max(rows, key=lambda row: row["learned"])
        reached = [row for row in reached if row["steps"] <= steps / 2] or reached
        best = max(reached, key=kept)
        if asked not in best:
            return best
        alike = [row for row in reached if row[asked] >= best[asked] - ALIKE]
        return min(alike, key=lambda row: (row["steps"], -row[asked], row.get(read, 0.0)))

    defaults: dict[str, dict] = {}
    for row in rows:
        row["chosen"] = False
    for method in dict.fromkeys(row["method"] for row in rows):
        tried = [row for row in rows if row["method"] == method]
        best = best_of(tried)
        best["chosen"] = True
        alike = [row for row in tried if row.get("top_t") == best.get("top_t")]
        by_optimizer = {
            optimizer: best_of([row for row in alike if row["optimizer"] == optimizer])["lr"]
            for optimizer in dict.fromkeys(row["optimizer"] for row in alike)
        }
        defaults[method] = {"optimizer": best["optimizer"], "lr": best["lr"], "lr_by_optimizer": by_optimizer}
        if best.get("top_t") is not None:
            defaults[method]["top_t"] = best["top_t"]
    return defaults


def edges(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """The lowest and highest rate tried of each method's chosen optimizer: a best rate there asks for a wider sweep."""
    chosen = {row["method"]: row["optimizer"] for row in rows if row["chosen"]}
    tried = {m: [row["lr"] for row in rows if (row["method"], row["optimizer"]) == (m, o)] for m, o in chosen.items()}
    return {method: (min(rates), max(rates)) for method, rates in tried.items()}


class Tuning:
    """A sweep of several methods on one lab, under way or finished; `steps()` advances it.

    Args:
        facts: What to teach, or a function from a seed to it.
        methods: Whose rates, and t of `sparse`, are to be found: each is tried as its `candidates`.
        passes, order, loss_on, recipe: As of `finetune`.

    Raises:
        ValueError: a method has no `rates`.

    Attributes:
        total: Gradient steps of all runs, if none learned the target before its end.
    """

    def __init__(
        self,
        lab: Lab,
        facts: Sequence[Fact] | Callable[[int], Sequence[Fact]],
        methods: Sequence[Method],
        passes: int | None = None,
        order: str | None = None,
        loss_on: str | None = None,
        recipe: Recipe | None = None,
    ):
        first = as_facts(facts(SEEDS[0]) if callable(facts) else facts)
        self.lab, self.facts = lab, facts
        self.teaching = Teaching.of(lab, first, passes, order, loss_on, recipe=recipe)
        self.recipe = recipe
        self.candidates: list[Method] = []
        for method in methods:
            if not (candidates := method.candidates(lab)):
                by = "" if method.optimizer is None else f" by {method.optimizer}"
                raise ValueError(f"no rates are known that could be tried for {method.key}{by}")
            self.candidates += candidates
        self.total = len(self.candidates) * len(SEEDS) * self.teaching.steps
        self._options = {name: getattr(self.teaching, name) for name in ("passes", "order", "loss_on")}
        self._rows: list[dict] = []

    def steps(self) -> Iterator[tuple[Method, int]]:
        """Yields: the method tried, and how many of the `total` steps are behind it."""
        done, of_setting = 0, len(SEEDS) * self.teaching.steps
        for method, item in sweep(self.lab, self.facts, self.candidates, recipe=self.recipe, **self._options):
            if isinstance(item, Step):
                done += item.step > 0
            else:
                self._rows.append(item)
                done = len(self._rows) * of_setting  # a run ends when the target is learned
            yield method, done

    @property
    def tuned(self) -> list[str]:
        """The methods of which all candidates have been tried."""
        tried = Counter(row["method"] for row in self._rows)
        return [
            name for name, count in Counter(method.key for method in self.candidates).items() if tried[name] == count
        ]

    @property
    def _whole(self) -> list[dict]:
        """The rows of those."""
        return [row for row in self._rows if row["method"] in self.tuned]

    def defaults(self) -> dict:
        """The lab's defaults, with the best settings of the methods tuned in place of theirs, the table, and what it
        was made under; rows of other methods stay in the table where they were made under the same."""
        best = best_settings(self._whole, self.teaching.steps)
        tuned = {name: {**self.lab.defaults.get(name, {}), **best[name]} for name in best}
        under = {**self._options, "facts": len(self.teaching.facts), "seeds": len(SEEDS)}
        earlier = self.lab.defaults.get("sweep", []) if self.lab.defaults.get("sweep_settings") == under else []
        rows = [row for row in earlier if row["method"] not in best] + self._whole
        return {**self.lab.defaults, **tuned, "sweep": rows, "sweep_settings": under}

    def at_edge(self) -> dict[str, float]:
        """The best rates that are the lowest or the highest tried, by method, once `defaults` chose them."""
        best = {row["method"]: row["lr"] for row in self._whole if row["chosen"]}
        return {name: best[name] for name, rates in edges(self._whole).items() if best[name] in rates}


def tuned_on(lab: Lab) -> dict[str, str]:
    """What the lab's learning rates were tuned on, as settings of a report."""
    under = lab.defaults.get("sweep_settings")
    if not under:
        return {"learning rates and t": "general ones, not tuned for this lab"}
    return {"learning rates and t tuned on": ", ".join(f"{name} {value}" for name, value in under.items())}
