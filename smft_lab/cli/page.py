"""`smft-lab page`: a page of one file, on which the top-t slider is live without Python."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from smft_lab.cli.options import (
    OTHER_METHODS,
    STANDARD,
    DeviceOption,
    InputOption,
    KindOption,
    LabOption,
    check_kind,
    facts_in,
    names_in,
    numbers_in,
)
from smft_lab.terminal import progress_bar, say

PASSES = 6  # of a lab without a recipe: at the tuned t, all is learned by then


def make_page(
    facts: Annotated[Path | None, InputOption(help="Your facts (.jsonl, .csv, .txt); else built-in ones.")] = None,
    kind: KindOption = None,
    count: Annotated[int, typer.Option(min=1, help="How many built-in facts to teach.")] = 16,
    methods: Annotated[str, typer.Option(help=f"sparse, and others; also {OTHER_METHODS}.")] = STANDARD,
    rules: Annotated[
        str | None, typer.Option(help="tfidf,tf,random if absent, or tfidf for a lab of a finished model.")
    ] = None,
    top_t: Annotated[str | None, typer.Option(help="The slider's places, as 1,10,100; 20 if absent.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the facts' order, LoRA's start, random choices.")] = 2,
    passes: Annotated[int | None, typer.Option(min=1, help="Passes over the facts; 6, or the lab's.")] = None,
    teach: Annotated[
        bool, typer.Option("--teach", help="Instead the page that holds the model: its visitors teach it.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="What stands on top of the page.")] = None,
    lab: LabOption = None,
    device: DeviceOption = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
    out: Annotated[Path, typer.Option(help="The page; its runs are kept beside it.")] = Path("results/page.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace a page that is there.")] = False,
) -> None:
    """Make a page that anybody can open, without Python: drag t, and see what was learned and forgotten.

    With built-in facts it takes about five minutes on two cores. Stopped, the same command goes on.
    """
    if teach:
        if facts is not None or rules or top_t or passes:
            raise ValueError(
                "--teach makes a page whose visitors say what is taught; leave --facts, --rules, --top-t "
                "and --passes out"
            )
        from smft_lab.lab import load
        from smft_lab.widgets.teach_page import TITLE, teach_page

        print(teach_page(load(lab, device=device), out, title or TITLE, force))
        return
    check_kind(kind, facts)
    names = {"methods": names_in(methods, "--methods"), "rules": None if rules is None else names_in(rules, "--rules")}
    grid = None if top_t is None else numbers_in(top_t, "--top-t")
    own = None if facts is None else facts_in(facts, kind)
    from smft_lab.lab import load
    from smft_lab.widgets.page_file import check_path
    from smft_lab.widgets.shared_page import RUNS, Plan

    opened = load(lab, device=device)
    if passes is None and opened.recipe is None:
        passes = PASSES
    command = shlex.join(["smft-lab", *(part for part in sys.argv[1:] if part != "--force")])
    plan = Plan(
        opened,
        own or opened.world.new_facts(count, 0),
        **names,
        top_t=grid,
        seeds=range(seeds),
        passes=passes,
        title=title,
        command=command,
    )
    out = check_path(out, force)
    try:
        with progress_bar() as bar:
            task = bar.add_task("runs", total=len(plan.runs))
            for done in plan.compute(out, workers, (lab and lab.resolve(), device)):
                bar.update(task, completed=done)
    except KeyboardInterrupt:
        stored = f"{plan.stored(out)} of {len(plan.runs)} runs are kept in {out.with_suffix(RUNS)}"
        say(f"stopped; {stored}, and the same command goes on")
        raise typer.Exit(130) from None
    print(plan.write(out, force))
