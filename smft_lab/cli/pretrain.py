"""`smft-lab pretrain`: the shipped model anew, or one of a text."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smft_lab.cli.options import InputOption, questions_in, resumable
from smft_lab.terminal import progress_bar, say

if TYPE_CHECKING:
    from smft_lab.training.memory_training import LabTraining


class Preset(StrEnum):
    shipped = "shipped"
    base = "base"


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
            _train_plain(out, text, questions, architecture, steps, seed)
            return
        from smft_lab.training import memory_training as training

        settings = training.MemoryTraining(steps=steps or 2000, everything=True, seed=seed)
        words = training.read_text(text)
        model, tokenizer = training.new_model(words, seed)
        windows = training.TextWindows(words, tokenizer, settings.window)
        follow_training(training.LabTraining(model, tokenizer, windows, settings, out))
        return
    from transformers.utils import logging

    from smft_lab.training.pretrain import PRESETS
    from smft_lab.training.pretrain import pretrain as records
    from smft_lab.training.processes import Processes

    logging.disable_progress_bar()
    chosen = PRESETS[preset.value]
    settings = replace(chosen, seed=seed, steps=steps or chosen.steps)
    known, main = "", Processes().main
    with progress_bar(main) as bar, resumable(f"the last checkpoint in {out}"):
        task = bar.add_task("pretrain", total=settings.steps)
        for record in records(out, settings):
            if record.metrics:
                known = f" old facts {record.metrics['old_facts_em']:.0%}"
            bar.update(task, completed=record.step, description=f"loss {record.loss:.2f}{known}")
    if not main:
        return
    for name, value in record.metrics.items():
        say(f"{name:<32} {value:.4f}")
    print(out)


def _train_plain(
    out: Path, text: Path, questions: Path | None, architecture: str, steps: int | None, seed: int
) -> None:
    """Train a model without a memory on a text, with questions in it, into a folder that `attach` takes."""
    from smft_lab.storage import check_lab_place
    from smft_lab.training import plain_model
    from smft_lab.training.memory_training import read_text

    check_lab_place(out, plain_model.MARK)
    words = read_text(text)
    if questions is not None:
        words = plain_model.text_with_questions(words, questions_in(questions), seed=seed)
    steps = steps or plain_model.TRAINING.steps
    with progress_bar() as bar, resumable(f"the last checkpoint in {out}"):
        task = bar.add_task("training", total=steps)
        for done, loss in plain_model.train_plain_model(words, architecture, out, steps, seed):
            bar.update(task, completed=done, description=f"loss {loss:.3f}")
    print(out)


def follow_training(work: LabTraining) -> None:
    """Train a lab's model behind a progress bar, and tell what became of it."""
    from smft_lab.training.processes import Processes

    main = Processes().main
    with progress_bar(main) as bar, resumable(f"the last checkpoint in {work.out}"):
        task = bar.add_task("training", total=work.settings.steps)
        for done, loss in work.steps():
            bar.update(task, completed=done, description=f"loss {loss:.3f}")
        if not main:
            return
        bar.update(task, description="background usage")
        lab = work.finish()
    nll = lab.probes.measure(lab.model, lab.tokenizer)["prose"]["nll"]
    shares = f"{lab.usage.share_read():.1%} of the slots are read, 1% of them take {lab.usage.top_share():.1%} of reads"
    say(f"held-out text {nll:.3f} nats per token; {shares}")
    print(work.out)
