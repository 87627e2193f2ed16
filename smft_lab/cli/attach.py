"""`smft-lab attach`: a memory for a finished model, by forward passes alone, or trained on a text."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from smft_lab.cli.options import InputOption, KindOption, RecipeOption, check_kind, numbers_in, questions_in, resumable
from smft_lab.cli.pretrain import follow_training
from smft_lab.recipe import recipe_to_attach
from smft_lab.terminal import progress_bar, say

ADDRESSES = "addresses.json"  # written beside the lab
HELLASWAG = 100  # choices of a probe, at most


class Mode(StrEnum):
    add = "add"
    replace = "replace"  # pyright: ignore[reportAssignmentType]  (a str has a method of that name)


class Base(StrEnum):
    reference = "reference"
    copy = "copy"


def attach(
    model: Annotated[str, typer.Argument(help="smollm2, a .gguf file, a model's folder, or its name on the hub.")],
    out: Annotated[Path, typer.Option(help="Folder of the new lab; an unfinished run there goes on.")],
    text: Annotated[Path | None, InputOption(help="Plain text (UTF-8) as background; else the model's own.")] = None,
    questions: Annotated[Path | None, InputOption(help="Questions with answers as background; else its own.")] = None,
    known: Annotated[Path | None, InputOption(help="Questions to find what it knows among; else plain ones.")] = None,
    choices: Annotated[Path | None, InputOption(help="HellaSwag, ARC or PIQA from a file, as a probe.")] = None,
    facts: Annotated[Path | None, InputOption(help="Facts to measure addresses with; else built-in ones.")] = None,
    kind: KindOption = None,
    questions_kind: Annotated[str | None, typer.Option(help="What --questions and --known are, likewise.")] = None,
    layers: Annotated[str, typer.Option(help="auto, or blocks from 0, as in 2,5.")] = "auto",
    recipe: RecipeOption = None,
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

    check_kind(kind, facts)
    if questions_kind is not None and questions is None and known is None:
        raise ValueError("--questions-kind says what the files of --questions and --known are; give one of them too")
    check_lab_place(out, besides=[ADDRESSES])
    chosen = recipe_to_attach([*(recipe or ()), *(() if slots is None else (f"slots={slots}",))])
    if steps:
        if recipe:
            raise ValueError("--recipe says how a memory is made without training it; leave it out, or --steps")
        if text is None:
            raise ValueError("--steps trains the memory on a text: give --text")
        blocks = None if layers == "auto" else numbers_in(layers, "--layers")
        _trained(model, out, text, blocks, chosen.slots, mode, steps, window, distill, everything, seed)
        return
    for name, given in (("--mode replace", mode is Mode.replace), ("--distill", distill), ("--everything", everything)):
        if given:
            raise ValueError(f"{name} needs the memory to be trained: give --steps, and --text to train it on")
    own: dict[str, Any] = {
        name: questions_in(file, questions_kind)
        for name, file in (("questions", questions), ("known", known))
        if file is not None
    }
    _retrofitted(model, out, chosen, layers, text, own, choices, facts, kind, base.value, chat, seed)


def _retrofitted(model, out, recipe, layers, text, own, choices, facts, kind, base, chat, seed) -> None:
    from smft_lab.experiments.retrofit import KEPT, Retrofit, follow
    from smft_lab.facts.files import read_facts
    from smft_lab.facts.public.datasets import read_dataset
    from smft_lab.model.opening import described, open_model
    from smft_lab.probes.choices import ChoiceProbe
    from smft_lab.probes.prompts import PromptForm
    from smft_lab.storage import check_lab_place
    from smft_lab.training.memory_training import read_text
    from smft_lab.writing import alone, clear_unfinished, write_atomically

    words = None if text is None else read_text(text)
    taught = [] if facts is None else read_facts(facts, kind)
    probes = []
    if choices is not None:
        dataset = read_dataset(choices)
        probes.append(ChoiceProbe.of(dataset.kind, dataset.choices[:HELLASWAG], dataset.kind))
    blocks = layers if layers == "auto" else numbers_in(layers, "--layers")
    opened, tokenizer = open_model(model)
    say(described(opened))
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
        **own,
    )
    unfinished.mkdir(parents=True, exist_ok=True)
    with alone(unfinished):
        check_lab_place(out, besides=[ADDRESSES])  # another process may have ended since that was asked
        with progress_bar() as bar, resumable(f"what {out} has"):
            follow(work, bar)
        assert work.lab is not None
        work.lab.save(out, base=base)
        write_atomically(out / ADDRESSES, json.dumps(work.report(), indent=1) + "\n")
        clear_unfinished(unfinished, [f"{stage}.json" for stage in KEPT])
    for line in work.summary():
        say(line)
    command = ["smft-lab", "compare", "--lab", str(out), "--facts", str(facts or "mine.jsonl")]
    command += ["--kind", kind] if kind else []
    say(f"next, teach it and see what it forgets: {shlex.join(command)}")
    print(out)


def _trained(model, out, text, blocks, slots, mode, steps, window, distill, everything, seed) -> None:
    from smft_lab.model.attach import add_memory, middle_block
    from smft_lab.model.opening import described, open_model
    from smft_lab.training import memory_training as training

    settings = training.MemoryTraining(steps=steps, window=window, distill=distill, everything=everything, seed=seed)
    settings.check()
    words = training.read_text(text)
    opened, tokenizer = open_model(model)
    training.check_window(opened, window)
    windows = training.TextWindows(words, tokenizer, window)
    teacher = open_model(model)[0] if distill and mode is Mode.replace else None
    add_memory(opened, blocks or [middle_block(opened)], slots, mode=mode.value, seed=seed)
    say(described(opened))
    follow_training(training.LabTraining(opened, tokenizer, windows, settings, out, teacher))
