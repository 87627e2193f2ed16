"""`smft-lab compare` and `tune`: methods beside each other, and the rates that each runs at."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smft_lab.cli.options import (
    OTHER_METHODS,
    STANDARD,
    DeviceOption,
    ForceOption,
    KindOption,
    LabOption,
    RecipeOption,
    SavedLabOption,
    check_kind,
    facts_in,
    names_in,
)
from smft_lab.recipe import LossOn, Optimizer, Order, read_switches, recipe_to_teach
from smft_lab.terminal import cell, console, progress_bar, say
from smft_lab.wording import counted

if TYPE_CHECKING:
    from smft_lab.experiments.tune import Tuning
    from smft_lab.facts.fact import Fact
    from smft_lab.finetuning.methods import Method
    from smft_lab.lab import Lab


def compare(
    facts: Annotated[Path | None, typer.Option(help="Your facts (.jsonl, .csv, .txt); else built-in ones.")] = None,
    kind: KindOption = None,
    count: Annotated[int, typer.Option(help="How many built-in facts to teach.")] = 40,
    methods: Annotated[
        str, typer.Option(help=f"Also {OTHER_METHODS}; sparse:tf, sparse:idf, sparse:kl, sparse:random, sparse:all.")
    ] = STANDARD,
    top_t: Annotated[int | None, typer.Option(help="Slots that one step may change.")] = None,
    passes: Annotated[int | None, typer.Option(min=1, help="Passes over the facts; 12, or the lab's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Each has its own order and its own built-in facts.")] = 2,
    order: Annotated[Order | None, typer.Option(help="A fact a step; or all mixed. The lab's if absent.")] = None,
    loss_on: Annotated[LossOn | None, typer.Option(help="Every token, or the answer's. The lab's if absent.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Of sparse; the tuned one if absent.")] = None,
    recipe: RecipeOption = None,
    tune: Annotated[bool, typer.Option("--tune", help="First sweep all learning rates on these facts.")] = False,
    lab: LabOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the report and its data.")] = Path("results/compare"),
    force: ForceOption = False,
) -> None:
    """Teach the same facts by every method, and chart what each learned and forgot."""
    names = names_in(methods, "--methods")
    check_kind(kind, facts)
    own = None if facts is None else facts_in(facts, kind)  # before the seconds that torch and a lab take
    switches = recipe or []
    read_switches(switches)  # likewise
    from smft_lab.experiments.compare import REPORT, Comparison, results_folder
    from smft_lab.experiments.tune import Tuning, tuned_on
    from smft_lab.lab import load

    chosen = {name: _method(name, top_t, optimizer and optimizer.value) for name in names}
    opened = load(lab, device=device)
    taught = _built_in(opened, count) if own is None else own
    taught_by = recipe_to_teach(opened.recipe, switches)
    called = f"{counted(count, 'fact')} about people the model has never met"
    if own is not None and facts is not None:
        called = f"{counted(len(own), 'fact')} from {facts.name}"
    settings = {"passes": passes, "order": order and order.value, "loss_on": loss_on and loss_on.value}
    # Refuses bad options before anything long begins.
    comparison = Comparison(opened, taught, chosen, seeds=range(seeds), recipe=taught_by, **settings)
    problem: BaseException | None = None
    with results_folder(out, force) as folder:  # before any computing
        if tune:
            tried = [_method(key, top_t) for key in dict.fromkeys(method.key for method in chosen.values())]
            under = {**settings, "loss_on": comparison.loss_on, "recipe": comparison.recipe}
            opened.defaults = _follow_sweep(Tuning(opened, comparison.taught, tried, **under))
            opened.recipe = comparison.recipe  # what the sweep found goes before it
        about = {"facts": called, **tuned_on(opened)}
        try:
            _follow(comparison)
        except (KeyboardInterrupt, Exception) as stop:  # what has ended by then is kept, whatever it was
            problem = stop
        if comparison.finished_runs().empty:
            say("stopped before the first run ended; nothing was written")
            raise typer.Exit(130) if problem is None or isinstance(problem, KeyboardInterrupt) else problem
        if problem is not None:
            about["stopped early"] = "the page shows the runs that had ended"
        comparison.write(folder, out, settings=about, command=shlex.join(["smft-lab", *sys.argv[1:]]))
    _print_summary(comparison)
    if problem is not None:
        say("stopped early; the report shows the runs that had ended")
    print(out / REPORT)
    if isinstance(problem, KeyboardInterrupt):
        raise typer.Exit(130) from None
    if problem is not None:
        raise problem


def _follow(comparison) -> None:
    with progress_bar() as bar:
        task = bar.add_task("compare", total=None)
        for at in comparison.steps():
            known = "" if at.learned is None else f" learned {at.learned:.0%}"
            label = f"{at.method:<7} seed {at.seed}{known}"
            bar.update(task, total=at.total, completed=at.done, description=label)


def _follow_sweep(tuning: Tuning) -> dict:
    """The lab's defaults with what the sweep found."""
    with progress_bar() as bar:
        task = bar.add_task("sweep", total=tuning.total)
        for method, done in tuning.steps():
            settings = method.settings()
            size = f" t {settings['top_t']}" if "top_t" in settings else ""
            label = f"sweep {method.key} lr {settings['lr']:g}{size}"
            bar.update(task, completed=done, description=label)
    defaults = tuning.defaults()
    for name, rate in tuning.at_edge().items():
        say(f"note: the best rate of {name} is at an edge of the sweep: {rate:g}")
    return defaults


def _print_summary(comparison) -> None:
    from smft_lab.charts.style import probes_in

    rows = comparison.summary()["equal_learning"]
    probes = probes_in((row["probe"], row["metric"]) for row in rows)
    means = f"mean over {counted(len(comparison.seeds), 'seed')}"
    read = f"At {comparison.target:.0%} learned"
    if sum(probe.is_learned for probe in probes) < 2:
        heads = {(row["probe"], row["metric"]): f"{row['probe']} {row['metric']}" for row in rows}
        heads = {key: head for key, head in heads.items() if key[1] != "f1"}
        _print_readings(f"{read} ({means})", rows, heads)
        return
    for part, is_learned in (("what was learned", True), ("what was kept", False)):
        shown = [probe for probe in probes if probe.is_learned == is_learned]
        heads = {
            (probe.key, probe.metric): probe.short if probe.is_share else f"{probe.short}, nats" for probe in shown
        }
        _print_readings(f"{read}: {part} ({means})", rows, heads, with_base=True)


def _print_readings(title: str, rows: list[dict], heads: dict[tuple[str, str], str], with_base: bool = False) -> None:
    """A line per method, and a column per (probe, metric) with its head; the base above them."""
    from rich.table import Table

    table = Table(title=cell(title))
    table.add_column("method")
    for head in heads.values():
        table.add_column(cell(head), justify="right")
    for name in dict.fromkeys(row["method"] for row in rows):
        readings = {(row["probe"], row["metric"]): row for row in rows if row["method"] == name}
        if with_base and not table.rows:
            table.add_row("base", *(f"{readings[key]['base']:.3f}" for key in heads))
        first = next(iter(readings.values()))
        mark = "" if first["n_reached"] == first["n"] else " (target not reached)"
        table.add_row(cell(name + mark), *(f"{readings[key]['mean']:.3f}" for key in heads))
    console.print(table)


def _method(name: str, top_t: int | None = None, optimizer: str | None = None) -> Method:
    """The method of that name; t and the optimizer are those of `sparse`."""
    from smft_lab.finetuning.methods import Sparse, method_of

    method = method_of(name)
    return replace(method, top_t=top_t, optimizer=optimizer) if isinstance(method, Sparse) else method


def tune(
    lab: Annotated[Path, SavedLabOption(help="The saved lab whose defaults are to be tuned.")],
    count: Annotated[int, typer.Option(help="How many built-in facts to teach.")] = 40,
    passes: Annotated[int | None, typer.Option(min=1, help="Passes over the facts; 12, or the lab's.")] = None,
    top_t: Annotated[int | None, typer.Option(help="Slots that one step may change.")] = None,
    methods: Annotated[str, typer.Option(help=f"Also {OTHER_METHODS}.")] = STANDARD,
    device: DeviceOption = "cpu",
) -> None:
    """Sweep every method's learning rate, and t; keep the best and the table with the lab. Takes up to an hour.

    Stopped, it keeps what it found of the methods that were done.
    """
    from smft_lab.experiments.tune import Tuning
    from smft_lab.lab import load
    from smft_lab.storage import LAB_FILE, save_defaults
    from smft_lab.writing import check_new, json_text

    opened = load(lab, device=device)
    check_new(lab / LAB_FILE, force=True)
    taught = _built_in(opened, count)
    tried = [_method(name, top_t) for name in names_in(methods, "--methods")]
    tuning, stopped = Tuning(opened, taught, tried, passes), False
    try:
        defaults = _follow_sweep(tuning)
    except KeyboardInterrupt:
        stopped, defaults = True, tuning.defaults()
    if tuning.tuned:
        try:
            save_defaults(lab, defaults)
        except Exception:  # the folder is written by another process, or what is in it is damaged, or the disk full
            say("what was found, to be put into lab.json:")
            print(json_text({"defaults": defaults}, indent=2))
            raise
    left = [method.key for method in tried if method.key not in tuning.tuned]
    if stopped and left:
        kept = f"{', '.join(tuning.tuned)} kept" if tuning.tuned else "nothing was kept"
        say(f"stopped; {kept}, and for the rest: --methods {','.join(left)}")
        raise typer.Exit(130)
    print(lab / LAB_FILE)


def _built_in(lab: Lab, count: int) -> Callable[[int], list[Fact]]:
    """Facts of the lab's own world as a function of the seed."""
    if count < 1:
        raise ValueError(f"--count must be at least 1, not {count}")
    world = lab.world
    return lambda seed: world.new_facts(count, seed)
