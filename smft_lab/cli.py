"""The command line: `smft-lab lab | compare | page | attach | facts | patch | tune | pretrain | reproduce | ...`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from smft_lab import __version__
from smft_lab.attach_cli import attach, train_on_text, train_plain
from smft_lab.page_cli import make_page
from smft_lab.patch_cli import patches
from smft_lab.reproduce_cli import reproduce
from smft_lab.study_cli import study
from smft_lab.terminal import InputOption, KindOption, SavedLabOption, console, names_in, printable, progress_bar

if TYPE_CHECKING:
    from smft_lab.facts.fact import Fact
    from smft_lab.finetuning.methods import Method
    from smft_lab.lab import Lab


class Commands(TyperGroup):
    """The commands, in the order in which people need them."""

    ORDER = ("lab", "compare", "page", "attach", "facts", "patch", "tune", "pretrain", "reproduce", "study", "bench")

    def list_commands(self, ctx) -> list[str]:
        return sorted(super().list_commands(ctx), key=self.ORDER.index)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a language model new facts, and watch what it forgets.",
)
app.add_typer(patches, name="patch")
app.command()(attach)
app.command("page")(make_page)
app.command()(reproduce)
app.command()(study)


def _tell_version(asked: bool) -> None:
    if asked:
        console.print(f"smft-lab {__version__}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
]


@app.callback(no_args_is_help=True)
def _options(version: VersionOption = False) -> None:
    pass


STANDARD = "sparse,full,lora"  # as of smft_lab.finetuning.methods, which takes seconds to import
SHOWN = 5  # facts of a file that `facts` prints
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, or cuda for a GPU.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what --out holds already.")]
LabOption = Annotated[Path | None, SavedLabOption("--lab", help="A saved lab; the shipped one if absent.")]


class Order(StrEnum):
    stream = "stream"
    shuffled = "shuffled"
    mixed = "mixed"


class Preset(StrEnum):
    shipped = "shipped"
    base = "base"


class LossOn(StrEnum):
    statement = "statement"
    answer = "answer"


class Optimizer(StrEnum):
    sgd = "sgd"
    adam = "adam"


def main() -> None:
    """Entry point: bad input is one line and exit code 2, never a traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal has no sign for is spelled out, and never ends the work
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (ValueError, OSError) as problem:
        text = printable(" ".join(str(problem).split()))
        console.print(f"smft-lab: {text}", markup=False, soft_wrap=True)
        sys.exit(2)


def _open_lab(path: Path | None, device: str = "cpu"):
    from smft_lab.lab import load

    return load(path, device)


def _built_in(lab: Lab, count: int):
    """Facts of the lab's own world as a function of the seed, and how the report calls them."""
    if count < 1:
        raise ValueError(f"--count must be at least 1, not {count}")
    world = lab.world
    return (
        lambda seed: world.new_facts(count, seed)
    ), f"{count} fact{'s' * (count != 1)} about people the model has never met"


def _from_file(file: Path, kind: str | None = None):
    """A person's own facts, and how the report calls them."""
    from smft_lab.facts.files import check_paraphrases, read_facts

    facts = read_facts(file, kind)
    if note := check_paraphrases(facts):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    return facts, f"{len(facts)} fact{'s' * (len(facts) != 1)} from {file.name}"


@app.command("lab")
def open_notebooks(
    pages: Annotated[bool, typer.Option("--app", help="Pages without code (Voila) instead of JupyterLab.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="If it is taken, a free one is used.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Copy the notebooks here first; your files stay.")] = None,
) -> None:
    """Open the notebooks in JupyterLab; Ctrl-C stops it."""
    from smft_lab import launch

    server = "Voila" if pages else "JupyterLab"
    if problem := launch.missing(server):
        console.print(f"smft-lab: {problem}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
    first, notes = launch.prepare(folder)
    for line in notes:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"starting {server}; Ctrl-C stops it")
    launch.serve(first, pages, not no_browser, port)


@app.command()
def compare(
    facts: Annotated[Path | None, typer.Option(help="Your facts (.jsonl, .csv, .txt); else built-in ones.")] = None,
    kind: KindOption = None,
    count: Annotated[int, typer.Option(help="How many built-in facts to teach.")] = 40,
    methods: Annotated[
        str, typer.Option(help="Also replay, osf; sparse:tf, sparse:idf, sparse:random, sparse:all.")
    ] = STANDARD,
    top_t: Annotated[int | None, typer.Option(help="Slots that one step may change.")] = None,
    passes: Annotated[int | None, typer.Option(min=1, help="Passes over the facts; 12, or the lab's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Each has its own order and its own built-in facts.")] = 2,
    order: Annotated[Order | None, typer.Option(help="A fact a step; or all mixed. The lab's if absent.")] = None,
    loss_on: Annotated[LossOn | None, typer.Option(help="Every token, or the answer's. The lab's if absent.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Of sparse; the tuned one if absent.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="First sweep all learning rates on these facts.")] = False,
    lab: LabOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the report and its data.")] = Path("results/compare"),
    force: ForceOption = False,
) -> None:
    """Teach the same facts by every method, and chart what each learned and forgot."""
    names = names_in(methods, "--methods")
    if kind is not None and facts is None:
        raise ValueError("--kind says what the file of --facts is; give that too")
    own = None if facts is None else _from_file(facts, kind)  # before the seconds that torch and a lab take
    from smft_lab.experiments.compare import REPORT, Comparison, results_folder

    chosen = {name: _method(name, top_t, optimizer and optimizer.value) for name in names}
    opened = _open_lab(lab, device)
    taught, called = own or _built_in(opened, count)
    settings = {"passes": passes, "order": order and order.value, "loss_on": loss_on and loss_on.value}
    # Refuses bad options before anything long begins.
    comparison = Comparison(opened, taught, chosen, seeds=range(seeds), **settings)
    problem: BaseException | None = None
    with results_folder(out, force) as folder:  # before any computing
        if tune:
            tried = [_method(key, top_t) for key in dict.fromkeys(method.key for method in chosen.values())]
            opened.defaults = _tuned(opened, comparison.taught, tried, {**settings, "loss_on": comparison.loss_on})
        about = {"facts": called, **_tuned_under(opened)}
        try:
            _follow(comparison)
        except (KeyboardInterrupt, Exception) as stop:  # what has ended by then is kept, whatever it was
            problem = stop
        if comparison.finished_runs().empty:
            console.print("stopped before the first run ended; nothing was written")
            raise typer.Exit(130) if problem is None or isinstance(problem, KeyboardInterrupt) else problem
        if problem is not None:
            about["stopped early"] = "the page shows the runs that had ended"
        comparison.write(folder, out, settings=about, command=_command())
    _print_summary(comparison)
    if problem is not None:
        console.print("stopped early; the report shows the runs that had ended")
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


def _command() -> str:
    return shlex.join(["smft-lab", *sys.argv[1:]])


def _print_summary(comparison) -> None:
    from smft_lab.charts.style import probes_in

    rows = comparison.summary()["equal_learning"]
    probes = probes_in((row["probe"], row["metric"]) for row in rows)
    means = f"mean over {len(comparison.seeds)} seeds"
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

    table = Table(title=title)
    table.add_column("method")
    for head in heads.values():
        table.add_column(head, justify="right")
    for name in dict.fromkeys(row["method"] for row in rows):
        readings = {(row["probe"], row["metric"]): row for row in rows if row["method"] == name}
        if with_base and not table.rows:
            table.add_row("base", *(f"{readings[key]['base']:.3f}" for key in heads))
        first = next(iter(readings.values()))
        mark = "" if first["n_reached"] == first["n"] else " (target not reached)"
        table.add_row(name + mark, *(f"{readings[key]['mean']:.3f}" for key in heads))
    console.print(table)


def _method(name: str, top_t: int | None = None, optimizer: str | None = None) -> Method:
    """The method of that name; t and the optimizer are those of `sparse`."""
    from smft_lab.finetuning.methods import Sparse, method_of

    method = method_of(name)
    return replace(method, top_t=top_t, optimizer=optimizer) if isinstance(method, Sparse) else method


def _tuned(
    lab: Lab, taught: Sequence[Fact] | Callable[[int], Sequence[Fact]], methods: Sequence[Method], settings: dict
) -> dict:
    """The lab's defaults, with the best settings of these methods in place of theirs."""
    from smft_lab.experiments.tune import SEEDS, best_settings, edges, sweep
    from smft_lab.finetuning.finetune import Step
    from smft_lab.finetuning.teaching import Teaching

    facts = taught(SEEDS[0]) if callable(taught) else taught
    teaching = Teaching.of(lab, facts, settings["passes"], settings["order"], settings["loss_on"])
    options = {name: getattr(teaching, name) for name in ("passes", "order", "loss_on")}
    tried = [candidate for method in methods for candidate in method.candidates(lab)]
    run = len(SEEDS) * teaching.steps
    rows = []
    with progress_bar() as bar:
        task = bar.add_task("sweep", total=len(tried) * run)
        for method, item in sweep(lab, taught, tried, **options):
            if isinstance(item, Step):
                about = method.settings()
                size = f" t {about['top_t']}" if "top_t" in about else ""
                bar.update(task, advance=item.step > 0, description=f"sweep {method.key} lr {about['lr']:g}{size}")
            else:
                rows.append(item)
                bar.update(task, completed=len(rows) * run)  # a run ends when the target is learned
    best = best_settings(rows, teaching.steps)
    for method, (lowest, highest) in edges(rows).items():
        if best[method]["lr"] in (lowest, highest):
            console.print(f"note: the best rate of {method} is at an edge of the sweep: {best[method]['lr']:g}")
    tuned = {name: {**lab.defaults.get(name, {}), **best[name]} for name in best}
    under = {**options, "facts": len(facts), "seeds": len(SEEDS)}
    return {**lab.defaults, **tuned, "sweep": rows, "sweep_settings": under}


def _tuned_under(lab: Lab) -> dict:
    """What the learning rates were tuned on, for the report's settings."""
    under = lab.defaults.get("sweep_settings")
    if not under:
        return {"learning rates and t": "general ones, not tuned for this lab"}
    return {"learning rates and t tuned on": ", ".join(f"{name} {value}" for name, value in under.items())}


@app.command()
def tune(
    lab: Annotated[Path, SavedLabOption(help="The saved lab whose defaults are to be tuned.")],
    count: Annotated[int, typer.Option(help="How many built-in facts to teach.")] = 40,
    passes: Annotated[int | None, typer.Option(min=1, help="Passes over the facts; 12, or the lab's.")] = None,
    top_t: Annotated[int | None, typer.Option(help="Slots that one step may change.")] = None,
    methods: Annotated[str, typer.Option(help="Also replay, osf.")] = STANDARD,
    device: DeviceOption = "cpu",
) -> None:
    """Sweep every method's learning rate, and t; keep the best and the table with the lab. Takes up to an hour."""
    from smft_lab.storage import LAB_FILE, PATIENCE
    from smft_lab.writing import alone, check_new, json_text, write_whole

    opened = _open_lab(lab, device)
    file = lab / LAB_FILE
    check_new(file, force=True)
    taught, _ = _built_in(opened, count)
    settings = {"passes": passes, "order": None, "loss_on": None}
    tried = [_method(name, top_t) for name in names_in(methods, "--methods")]
    defaults = _tuned(opened, taught, tried, settings)
    with alone(lab, PATIENCE):  # the lab may have been saved again meanwhile
        about = json.loads(file.read_text(encoding="utf-8"))
        about["defaults"] = defaults
        write_whole(file, json_text(about, indent=2))
    print(file)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder; an unfinished run there goes on.")] = Path("results/lab"),
    seed: Annotated[int, typer.Option(help="Of the world, the texts and the start.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Gradient steps; the preset's if absent.")] = None,
    preset: Annotated[Preset, typer.Option(help="base: ten times larger, for a GPU.")] = Preset.shipped,
    text: Annotated[Path | None, InputOption(help="A new model of this plain text (UTF-8) instead.")] = None,
    architecture: Annotated[
        str, typer.Option(help="With --text: no lab, but a model without a memory, such as gpt_neox.")
    ] = "",
    questions: Annotated[
        Path | None, InputOption(help="With --architecture: questions with answers among the text.")
    ] = None,
) -> None:
    """Train the shipped model again from its seed: up to 30 minutes on two cores. `torchrun -m` spreads it."""
    if (architecture and text is None) or (questions is not None and not architecture):
        raise ValueError("--architecture needs the --text to learn from, and --questions needs --architecture")
    if text is not None:
        if preset is not Preset.shipped:
            raise ValueError(f"--preset {preset.value} is of the built-in world; leave it out with --text")
        if architecture:
            train_plain(out, text, questions, architecture, steps, seed)
            return
        from smft_lab.experiments import memory_training as training

        settings = training.MemoryTraining(steps=steps or 2000, everything=True, seed=seed)
        words = training.read_text(text)
        model, tokenizer = training.new_model(words, seed)
        train_on_text(model, tokenizer, training.TextWindows(words, tokenizer, settings.window), settings, out)
        return
    from transformers.utils import logging

    from smft_lab.experiments.pretrain import PRESETS
    from smft_lab.experiments.pretrain import pretrain as records
    from smft_lab.experiments.processes import Processes

    logging.disable_progress_bar()
    chosen = PRESETS[preset.value]
    settings = replace(chosen, seed=seed, steps=steps or chosen.steps)
    known, main = "", Processes().main
    with progress_bar(main) as bar:
        task = bar.add_task("pretrain", total=settings.steps)
        try:
            for record in records(out, settings):
                if record.metrics:
                    known = f" old facts {record.metrics['old_facts_em']:.0%}"
                bar.update(task, completed=record.step, description=f"loss {record.loss:.2f}{known}")
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on from the last checkpoint in {out}")
            raise typer.Exit(130) from None
    if not main:
        return
    for name, value in record.metrics.items():
        console.print(f"{name:<32} {value:.4f}")
    print(out)


@app.command("facts")
def make_facts(
    source: Annotated[
        str, typer.Argument(help="A file; or triviaqa, nq_open, simpleqa, popqa, owner/name on the hub.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the facts here, as JSON lines for --facts.")] = None,
    kind: KindOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most facts, drawn by the seed.")] = None,
    documents: Annotated[bool, typer.Option("--documents", help="A text file: its passages, in order.")] = False,
    paraphraser: Annotated[str | None, typer.Option(help="A Hugging Face model that rewords; else only rules.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    force: ForceOption = False,
) -> None:
    """Show the first facts of a file or a public question set as they will be taught and asked; --out keeps all."""
    from smft_lab.facts.answers import check_answers
    from smft_lab.facts.datasets import read_dataset, read_own
    from smft_lab.facts.documents import read_documents
    from smft_lab.facts.files import check_paraphrases, record_of
    from smft_lab.writing import check_new, write_whole

    if out is not None and out.suffix != ".jsonl":
        raise ValueError(f"--out {out}: facts are JSON lines; let its name end in .jsonl")
    if out is not None:
        if out.exists() and Path(source).exists() and out.samefile(source):
            raise ValueError(f"--out {out} is the source itself; name another file, or it is lost")
        check_new(out, force)
    if documents:
        read, is_what = read_documents(source, seed=seed), "documents"
    else:
        read = (read_own if _is_file(source) else read_dataset)(
            source, kind, limit=limit, seed=seed, paraphraser=paraphraser
        )
        is_what = read.kind
    facts = read.facts[:limit]
    if not facts:
        raise ValueError(f"{source} holds no questions with short answers ({read.report})")
    for number, fact in enumerate(facts[:SHOWN], start=1):
        others = [f"{len(texts)} more" for texts in (fact.statements[1:],) if texts]
        text = "; and ".join([_in_a_line(fact.statements[0]), *others])
        console.print(f"{number}. taught: {text}", markup=False, soft_wrap=True)
        for question in fact.questions[:1]:
            console.print(f"   taught: {_in_a_line(question)} -> {fact.answer}", markup=False, soft_wrap=True)
        answers = " | ".join(fact.answers[:4])
        console.print(f"   asked:  {_in_a_line(fact.question)} -> {answers}", markup=False, soft_wrap=True)
    for note in (check_paraphrases(facts), check_answers(facts)):
        if note:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"{len(facts)} facts; {read.report}; read as {is_what}", markup=False, soft_wrap=True)
    if out is not None:
        write_whole(out, "".join(json.dumps(record_of(fact), ensure_ascii=False) + "\n" for fact in facts))
        print(out)


def _is_file(source: str) -> bool:
    from smft_lab.facts.rows import SUFFIXES

    return Path(source).exists() or Path(source).suffix.lower() in SUFFIXES or source.startswith((".", "/", "~"))


def _in_a_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:159]}…"


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and repeats: under a minute.")] = False,
    lab: LabOption = None,
    out: Annotated[Path, typer.Option(help="Folder of bench.json and bench.csv.")] = Path("results/bench"),
    force: ForceOption = False,
) -> None:
    """Time a sparse step beside the other ways to take it; ratios are what counts."""
    from dataclasses import asdict

    import pandas as pd
    from rich.table import Table

    from smft_lab.experiments.bench import bench as rows_of
    from smft_lab.experiments.bench import machine, ratios
    from smft_lab.writing import check_new, json_text, write_whole

    for name in ("bench.csv", "bench.json"):
        check_new(out / name, force)
    opened = _open_lab(lab)
    about, rows = machine(), []
    console.print(", ".join(f"{name} {value}" for name, value in about.items() if value is not None), soft_wrap=True)
    with progress_bar() as bar:
        task = bar.add_task("bench", total=None)
        for row in rows_of(opened, quick, None if lab is None else str(lab)):
            rows.append(row)
            bar.update(task, description=f"{row.part}: {row.what}"[:60])
    frame = pd.DataFrame([{**asdict(row), "ratio": ratio} for row, ratio in zip(rows, ratios(rows), strict=True)])
    for part, of_part in frame.groupby("part", sort=False):
        table = Table(title=str(part), title_justify="left")
        for column in ("what", "N", "median", "ratio", "note"):
            table.add_column(column, justify="right" if column in ("N", "median", "ratio") else "left")
        row: Any  # pandas tells nothing of its fields
        for row in of_part.itertuples():
            known = pd.notna(row.value)
            slots = "" if pd.isna(row.slots) else f"{int(row.slots):,}"
            median = f"{row.value:,.3g} {row.unit}" if known else "-"
            table.add_row(row.what, slots, median, f"{row.ratio:,.2f}" if known else "-", row.note)
        console.print(table)
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    write_whole(out / "bench.csv", frame.to_csv(index=False))
    write_whole(out / "bench.json", json_text({"machine": about, "rows": records}, indent=2))
    print(out / "bench.json")


if __name__ == "__main__":
    main()
