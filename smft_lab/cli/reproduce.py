"""`smft-lab reproduce`: the paper's experiments, as one resumable sweep and one page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smft_lab.cli.options import SavedLabOption, resumable
from smft_lab.terminal import progress_bar, say

NAMES = (
    "facts, documents, pareto, selection, background, coreset, sgd, razor, cost, update, twohop, baselines, retention, "
    "capacity, protect, scale"
)


class Backend(StrEnum):
    local = "local"
    dask = "dask"
    ray = "ray"


def reproduce(
    names: Annotated[list[str], typer.Argument(help=f"all, or some of: {NAMES}.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per setting.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer facts and passes.")] = False,
    lab: Annotated[Path | None, SavedLabOption("--lab", help="Of the built-in world; else the shipped one.")] = None,
    out: Annotated[Path, typer.Option(help="Folder; several machines may share it.")] = Path("results/reproduce"),
    workers: Annotated[int, typer.Option(min=1, help="Local processes, of one thread each.")] = 2,
    backend: Annotated[Backend, typer.Option(help="Where jobs run.")] = Backend.local,
    address: Annotated[str | None, typer.Option(help="Of an existing dask or ray cluster.")] = None,
    device: Annotated[str, typer.Option(help="Where each process computes: cpu, or cuda for a GPU.")] = "cpu",
) -> None:
    """Run the paper's experiments again and say, claim by claim, what agrees. Killed, it goes on where it was."""
    from smft_lab.reproduce.plan import Plan

    plan = Plan([] if names == ["all"] else names, seeds, quick, lab, out, device)
    with resumable(f"what there is in {out}"):
        with progress_bar() as bar:
            tasks = {}
            for model, done, total in plan.pretrain():
                if model not in tasks:
                    tasks[model] = bar.add_task(f"pretrain {model}", total=total)
                bar.update(tasks[model], completed=done)
        with progress_bar() as bar:
            task = bar.add_task("reproduce", total=None)
            for done, total, job in plan.run(backend.value, address, workers):
                label = "reproduce" if job is None else f"{job.method} {job.rule} seed {job.seed}"
                bar.update(task, completed=done, total=total, description=label)
    for experiment, *_, claims in plan.write():
        for claim in claims:
            line = f"{experiment.name}: {claim.in_words}: {claim.text} {claim.ours}"
            say(line)
    print(out / "report.html")
