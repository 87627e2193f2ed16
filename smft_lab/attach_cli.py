"""`smft-lab attach`: a memory for a finished model, by forward passes alone, or trained on a text."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smft_lab.recipe import RECIPES
from smft_lab.terminal import InputOption, KindOption, console, names_in, progress_bar

HELLASWAG = 100  # choices of a probe, at most


class Mode(StrEnum):
    add = "add"
    replace = "replace"  # pyright: ignore[reportAssignmentType]  (a str has a method of that name)


class Base(StrEnum):
    reference = "reference"
    copy = "copy"


RecipeName = StrEnum("RecipeName", {name: name for name in RECIPES})


def attach(
    model: Annotated[str, typer.Argument(help="smollm2, a .gguf file, a model's folder, or its name on the hub.")],
    out: Annotated[Path, typer.Option(help="Folder of the new lab; an unfinished run there goes on.")],
    text: Annotated[Path | None, InputOption(help="Plain text (UTF-8) as background; else the model's own.")] = None,
    questions: Annotated[Path | None, InputOption(help="Questions with answers as background; else its own.")] = None,
    known: Annotated[Path | None, InputOption(help="Questions to find what it knows among; else plain ones.")] = None,
    choices: Annotated[Path | None, InputOption(help="HellaSwag, ARC or PIQA from a file, as a probe.")] = None,
    facts: Annotated[Path | None, InputOption(help="Facts to measure addresses with; else built-in ones.")] = None,
    kind: KindOption = None,
    layers: Annotated[str, typer.Option(help="auto, or blocks from 0, as in 2,5.")] = "auto",
    recipe: Annotated[  # its names are made at run time
        RecipeName,  # pyright: ignore[reportInvalidTypeForm]
        typer.Option(help="How it is made and facts are taught."),
    ] = RecipeName.retrofit,  # pyright: ignore[reportAttributeAccessIssue]
    slots: Annotated[int | None, typer.Option(min=1, help="A perfect square; the recipe's if absent.")] = None,
    base: Annotated[Base, typer.Option(help="Name the model in the lab, or copy it there.")] = Base.reference,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")] = False,
    steps: Annotated[int, typer.Option(min=0, help="Gradient steps of the memory on --text; 0: none.")] = 0,
    mode: Annotated[Mode, typer.Option(help="With --steps: beside the feed-forward, or in its place.")] = Mode.add,
    window: Annotated[int, typer.Option(min=2, help="With --steps: tokens in a training text.")] = 64,
    distill: Annotated[float, typer.Option(help="With --steps, 0 to 1: hold on to what it says now.")] = 0.0,
    everything: Annotated[bool, typer.Option("--everything", help="With --steps: train all weights.")] = False,
    seed: Annotated[int, typer.Option(help="Of the new weights, and of all that is drawn.")] = 0,
) -> None:
    """Give a finished model a memory, in minutes and without training it, as a lab for `compare --lab`."""
    from smft_lab.storage import check_lab_place

    if kind is not None and facts is None:
        raise ValueError("--kind says what the file of --facts is; give that too")
    check_lab_place(out)
    chosen = replace(RECIPES[recipe.value], **({} if slots is None else {"slots": slots}))
    if steps:
        if text is None:
            raise ValueError("--steps trains the memory on a text: give --text")
        blocks = None if layers == "auto" else _blocks(layers)
        _trained(model, out, text, blocks, chosen.slots, mode, steps, window, distill, everything, seed)
        return
    for name, given in (("--mode replace", mode is Mode.replace), ("--distill", distill), ("--everything", everything)):
        if given:
            raise ValueError(f"{name} needs the memory to be trained: give --steps, and --text to train it on")
    _retrofitted(model, out, chosen, layers, text, questions, known, choices, facts, kind, base.value, chat, seed)


def _retrofitted(model, out, recipe, layers, text, questions, known, choices, facts, kind, base, chat, seed) -> None:
    from smft_lab.experiments.memory_training import read_text
    from smft_lab.experiments.retrofit import Retrofit, follow
    from smft_lab.facts.datasets import read_dataset
    from smft_lab.facts.files import read_facts
    from smft_lab.model.opening import described, open_model
    from smft_lab.probes.choices import ChoiceProbe
    from smft_lab.probes.prompts import PromptForm
    from smft_lab.writing import write_whole

    words = None if text is None else read_text(text)
    read = {name: _questions(file) for name, file in (("questions", questions), ("known", known)) if file is not None}
    taught = [] if facts is None else read_facts(facts, kind)
    probes = []
    if choices is not None:
        found = read_dataset(choices)
        probes.append(ChoiceProbe.of(found.kind, found.choices[:HELLASWAG], found.kind))
    blocks = layers if layers == "auto" else _blocks(layers)
    opened, tokenizer = open_model(model)
    console.print(described(opened), markup=False, soft_wrap=True)
    unfinished = out / "unfinished"
    work = Retrofit(
        opened,
        tokenizer,
        recipe,
        blocks,
        text=words,
        facts=taught,
        probes=probes,
        seed=seed,
        folder=unfinished,
        form=PromptForm.CHAT if chat else PromptForm.PLAIN,
        **read,
    )
    with progress_bar() as bar:
        try:
            follow(work, bar)
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on from what {out} has")
            raise typer.Exit(130) from None
    assert work.lab is not None
    work.lab.save(out, base=base)
    write_whole(out / "addresses.json", json.dumps(work.report(), indent=1) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)
    for line in work.told():
        console.print(line, markup=False, soft_wrap=True)
    told = facts or "mine.jsonl"
    asked = ["smft-lab", "compare", "--lab", str(out), "--facts", str(told), *(["--kind", str(kind)] if kind else [])]
    console.print(f"next, teach it and see what it forgets: {shlex.join(asked)}", markup=False, soft_wrap=True)
    print(out)


def _questions(file: Path) -> list:
    """Questions with answers, from a question set or a file of facts."""
    from smft_lab.facts.datasets import read_dataset

    read = read_dataset(file)
    found = [*read.facts, *read.questions]
    if not found:
        raise ValueError(f"{file} holds no questions with short answers ({read.report})")
    return found


def _blocks(text: str) -> list[int]:
    return [_number(part, "--layers") for part in names_in(text, "--layers")]


def _trained(model, out, text, blocks, slots, mode, steps, window, distill, everything, seed) -> None:
    from smft_lab.experiments import memory_training as training
    from smft_lab.model.attach import add_memory, feed_forwards
    from smft_lab.model.opening import described, open_model

    settings = training.MemoryTraining(steps=steps, window=window, distill=distill, everything=everything, seed=seed)
    settings.check()
    words = training.read_text(text)
    mine, tokenizer = open_model(model)
    training.check_window(mine, window)
    windows = training.TextWindows(words, tokenizer, window)
    if blocks is None:
        places = feed_forwards(mine)
        known = [block for block, place in enumerate(places) if place is not None]
        blocks = [min(known, key=lambda block: abs(block - len(places) // 2))]
    teacher = open_model(model)[0] if distill and mode is Mode.replace else None
    add_memory(mine, blocks, slots, mode.value, seed=seed)
    console.print(described(mine), markup=False, soft_wrap=True)
    train_on_text(mine, tokenizer, windows, settings, out, teacher)


def train_on_text(model, tokenizer, windows, settings, out: Path, teacher=None) -> None:
    """Train a model's memory, or all of it, on a text, and save it as a lab; an unfinished run there goes on."""
    from smft_lab.experiments import memory_training as training
    from smft_lab.experiments.processes import Processes
    from smft_lab.storage import check_lab_place
    from smft_lab.writing import write_whole

    main = Processes().main
    if main:
        check_lab_place(out)
    unfinished = out / "unfinished"
    recent: list[float] = []
    with progress_bar(main) as bar:
        task = bar.add_task("training", total=settings.steps)
        try:
            for done, loss in training.pretrain_memory(model, windows, settings, unfinished, teacher):
                recent = [*recent[-49:], loss]
                bar.update(task, completed=done, description=f"loss {sum(recent) / len(recent):.3f}")
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on from the last checkpoint in {out}")
            raise typer.Exit(130) from None
        if not main:
            return
        bar.update(task, description="background usage")
        model.cpu()
        lab = training.text_lab(model, tokenizer, windows, settings)
    lab.save(out)
    write_whole(out / "memory_training.json", training.about(settings, lab.usage, sum(recent) / len(recent)))
    shutil.rmtree(unfinished)
    (out / ".unfinished.lock").unlink(missing_ok=True)
    nll = lab.probes.measure(model, tokenizer)["prose"]["nll"]
    shares = f"{lab.usage.share_read():.1%} of the slots are read, 1% of them take {lab.usage.top_share():.1%} of reads"
    console.print(f"held-out text {nll:.3f} nats per token; {shares}", markup=False, soft_wrap=True)
    print(out)


def train_plain(out: Path, text: Path, questions: Path | None, architecture: str, steps: int | None, seed: int) -> None:
    """Train a model without a memory on a text, with questions in it, into a folder that `attach` takes."""
    from smft_lab.experiments import plain_model
    from smft_lab.experiments.memory_training import read_text

    if (out / "config.json").exists():
        raise ValueError(f"{out} already holds a model; name another folder, or delete it")
    words = read_text(text)
    if questions is not None:
        words = plain_model.text_with_questions(words, _questions(questions), seed=seed)
    steps = steps or plain_model.TRAINING.steps
    with progress_bar() as bar:
        task = bar.add_task("training", total=steps)
        try:
            for done, loss in plain_model.train_plain_model(words, architecture, out, steps, seed):
                bar.update(task, completed=done, description=f"loss {loss:.3f}")
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on from the last checkpoint in {out}")
            raise typer.Exit(130) from None
    print(out)


def _number(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{option} takes numbers, not {text!r}") from None
