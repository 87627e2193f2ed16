"""`smft-lab reproduce`: the paper's experiments, as one resumable sweep and one page."""

from __future__ import annotations

from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smft_lab.terminal import SavedLabOption, console, progress_bar

if TYPE_CHECKING:
    import pandas as pd

    from smft_lab.reproduce.claims import Claim, Experiment
    from smft_lab.reproduce.jobs import Job

NAMES = (
    "facts, documents, pareto, selection, background, coreset, sgd, razor, cost, update, twohop, baselines, retention, "
    "capacity, protect, scale"
)
WHOLE = {"facts": 40, "passes": 12, "evaluations": 8, "pretraining": 4200}
QUICK = {"facts": 3, "passes": 8, "evaluations": 2, "pretraining": 20}


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
    from smft_lab.model.memory import memory_layers
    from smft_lab.reproduce.experiments import EXPERIMENTS
    from smft_lab.reproduce.jobs import opened
    from smft_lab.reproduce.page import write_claims, write_page
    from smft_lab.reproduce.scale import OWN
    from smft_lab.reproduce.sweep import read_result, sweep
    from smft_lab.writing import json_text, write_whole

    chosen = list(EXPERIMENTS) if names == ["all"] else names
    if strangers := [name for name in chosen if name not in EXPERIMENTS]:
        raise ValueError(f"no experiment {strangers[0]!r}; there are {NAMES} and all")
    folder = "" if lab is None else str(lab.resolve())
    base = opened(folder, device)
    if base.world_seed is None:
        raise ValueError(f"{lab} is not a lab of the built-in world; these experiments teach its facts")
    keys = memory_layers(base.model)[0].keys
    if (base.slots, keys.k) != OWN and (beside := {"scale", "retention"} & set(chosen)):
        raise ValueError(
            f"{' and '.join(sorted(beside))}: other tables are set beside one of {OWN[0]:,} slots with {OWN[1]} reads "
            f"per head, and {lab} has {base.slots:,} with {keys.k}; name the other experiments"
        )
    size = QUICK if quick else WHOLE
    results, models = out / "runs", out / "models"
    jobs = {name: jobs_of(name, seeds, size, folder, models, device) for name in chosen}
    everything = [job for name in chosen for job in jobs[name]]
    try:
        _pretrain([job for job in everything if job.slots and read_result(results, job) is None], models)
        with progress_bar() as bar:
            task = bar.add_task("reproduce", total=None)
            for done, total, job in sweep(everything, results, backend.value, address, workers, device):
                label = "reproduce" if job is None else f"{job.method} {job.rule} seed {job.seed}"
                bar.update(task, completed=done, total=total, description=label)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on, with what there is in {out}")
        raise typer.Exit(130) from None
    parts = [read(name, jobs[name], results) for name in chosen]
    record = {experiment.name: [asdict(claim) for claim in claims] for experiment, *_, claims in parts}
    for experiment, *_, claims in parts:
        for claim in claims:
            said = f"{experiment.name}: {claim.said}: {claim.text} {claim.ours}"
            console.print(said, markup=False, soft_wrap=True)
    ended = (read_result(results, job) for job in dict.fromkeys(everything))
    seconds = sum(result["seconds"] for result in ended if result is not None)
    about = {
        **size,
        "seeds": seeds,
        "base": everything[0].base,
        "parameters": base.model.num_parameters(),
        "slots": base.slots,
        "reads per token": keys.heads * keys.k,
        "runs": len(set(everything)),
        "seconds of computing": round(seconds),
    }
    write_whole(out / "claims.json", json_text({"settings": about, "claims": record}, indent=2))
    write_claims(out / "claims.md", about, parts)
    write_page(out / "report.html", about, parts)
    print(out / "report.html")


def jobs_of(name: str, seeds: int, size: dict, folder: str, models: Path, device: str = "cpu") -> list[Job]:
    """The jobs of an experiment: `size` is `WHOLE` or `QUICK`, `folder` the lab's ("" is the shipped one)."""
    from smft_lab.reproduce.experiments import EXPERIMENTS
    from smft_lab.reproduce.jobs import Job

    drafts = [Job(**size, seed=seed, lab=folder) for seed in range(seeds)]
    return [_whole(job, models, device) for draft in drafts for job in EXPERIMENTS[name].jobs(draft)]


def read(name: str, jobs: list[Job], results: Path) -> tuple[Experiment, pd.DataFrame, dict, list[Claim]]:
    """The experiment, its table of results, what was found per result, and what they say."""
    from smft_lab.reproduce.experiments import EXPERIMENTS
    from smft_lab.reproduce.sweep import read_result, table_of

    table = table_of(jobs, results)
    found = {job.key: result["found"] for job in jobs if (result := read_result(results, job)) is not None}
    return EXPERIMENTS[name], table, found, EXPERIMENTS[name].read(table, found)


def _pretrain(jobs: list[Job], models: Path) -> None:
    """Make the models of their own that jobs ask for, but for those that are there."""
    from smft_lab.reproduce.scale import model_folder, pretrained
    from smft_lab.storage import LAB_FILE

    needed = {model_folder(job, models): job for job in jobs if job.slots}
    for folder, job in needed.items():
        if not (folder / LAB_FILE).exists():
            with progress_bar() as bar:
                task = bar.add_task(f"pretrain {folder.name}", total=job.pretraining)
                for record in pretrained(job, models):
                    bar.update(task, completed=record.step)


def _whole(job: Job, models: Path, device: str = "cpu") -> Job:
    """The job with all that it leaves to the lab's defaults, and where its model is or will be."""
    from smft_lab.reproduce.jobs import opened, with_defaults
    from smft_lab.reproduce.scale import model_folder

    whole = with_defaults(job, opened(job.lab, device))
    return replace(whole, lab=str(model_folder(job, models).resolve())) if job.slots else whole
