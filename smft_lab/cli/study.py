"""`smft-lab study`: what a real model learns and forgets, as one resumable sweep and one page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smft_lab.cli.options import resumable
from smft_lab.terminal import progress_bar


class Part(StrEnum):
    blocks = "blocks"
    ablation = "ablation"
    sweep = "sweep"
    comparison = "comparison"
    many = "many"
    own = "own"


def study(
    data: Annotated[Path, typer.Option(help="Folder with wikitext2_test.txt and triviaqa_test_1500.jsonl.")],
    parts: Annotated[list[Part] | None, typer.Argument(help="Some of its parts; else all.")] = None,
    model: Annotated[str, typer.Option(help="As of attach.")] = "smollm2",
    facts: Annotated[int, typer.Option(min=2, help="Facts of the comparison.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of facts per setting.")] = 3,
    block: Annotated[int, typer.Option(min=0, help="Where the memory is, but for the part blocks.")] = 2,
    choices: Annotated[int, typer.Option(min=0, help="Rows of hellaswag_500.jsonl asked before and after.")] = 0,
    known: Annotated[
        int, typer.Option(min=1, help="Questions that the base answers, asked again; over 60 also plain ones.")
    ] = 60,
    rate: Annotated[
        list[str] | None, typer.Option(help="A rate that the sweep tries, as full=1e-4; several for each.")
    ] = None,
    handbook: Annotated[Path, typer.Option(help="Facts file of the part own.")] = Path("docs/facts/handbook.jsonl"),
    kind: Annotated[str | None, typer.Option(help="What the handbook is, if it can't be told: alpaca, ...")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results and the page.")] = Path("docs/retrofit"),
    workers: Annotated[int, typer.Option(min=1, help="Local processes, of one thread each.")] = 2,
    read: Annotated[bool, typer.Option("--read", help="Run nothing; make the page of what is there.")] = False,
) -> None:
    """Measure a retrofit: blocks, switches, and sparse against full finetuning and LoRA. Killed, it goes on."""
    if not read and not data.exists():  # told before the seconds that torch takes to load
        raise ValueError(f"{data}: there is no such folder; check its name and place")
    from smft_lab.reproduce.real import CHOICES, QUESTIONS, TEXT, RetrofitJob
    from smft_lab.reproduce.study import TITLE, Study, rates_of
    from smft_lab.reproduce.sweep import sweep
    from smft_lab.writing import check_new, write_atomically

    written = out / "README.md"
    check_new(written, force=True)
    if written.exists() and not written.read_text(encoding="utf-8", errors="replace").startswith(TITLE):
        raise ValueError(f"{written} is not a page of this command, and would be replaced; name another --out")
    for name in (TEXT, QUESTIONS, *([CHOICES] if choices else [])):
        if not read and not (data / name).is_file():
            raise ValueError(f"{data} has no {name}; the study needs it for its background and its probes")
    if not read and Part.own in (parts or Part) and not handbook.is_file():
        raise ValueError(f"{handbook} is no file; the part own teaches its facts: name it with --handbook")
    draft = RetrofitJob(model=model, block=block, facts=facts, known=known, data=str(data.resolve()))
    work = Study(draft, seeds, rates_of(rate or ()), choices, handbook, out / "runs", kind or "")
    with resumable(f"what there is in {out}"):
        for part in [] if read else parts or Part:
            jobs = [job for of_setting in work.jobs(part).values() for job in of_setting]
            with progress_bar() as bar:
                task = bar.add_task(part.value, total=None)
                for done, total, job in sweep(jobs, work.results, workers=workers):
                    label = part.value if job is None else f"{part.value}: {job.method} seed {job.seed}"
                    bar.update(task, completed=done, total=total, description=label)
    command = f"smft-lab study --model {model} --facts {facts} --seeds {seeds} --block {block}"
    command += f" --choices {choices}" if choices else ""
    command += f" --known {known}" if known != RetrofitJob.known else ""
    command += "".join(f" --rate {text}" for text in rate or ())
    write_atomically(written, work.page(f"{command} --data ...") + "\n")
    print(written)
