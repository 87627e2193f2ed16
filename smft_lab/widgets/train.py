"""The train panel: a small memory model, trained live from nothing."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from random import Random
from typing import TYPE_CHECKING

import pandas as pd
import torch
import traitlets

from smft_lab.facts.fact import Fact
from smft_lab.lab import Lab
from smft_lab.model.tokenizer import encode
from smft_lab.probes.probes import QuestionProbe, recalled, world_probes
from smft_lab.slots.patch import Patch
from smft_lab.slots.usage import measure_usage
from smft_lab.training.pretrain import (
    PretrainSettings,
    background_usage,
    beginning,
    gradient_steps,
    make_optimizer,
)
from smft_lab.widgets import sharing
from smft_lab.widgets.drawn_table import in_cells, side_of
from smft_lab.widgets.panel import page
from smft_lab.widgets.runners import InlineRunner
from smft_lab.widgets.training_panel import TrainingPanel

if TYPE_CHECKING:
    from smft_lab.charts.pictures import Picture

SMALL = PretrainSettings(
    steps=2400,
    batch_size=48,
    lr=4e-3,
    value_lr=1.6e-2,
    warmup=60,
    max_tokens=32,
    vocab_size=1024,
    tokenizer_texts=5000,
    hidden_size=64,
    intermediate_size=128,
    layers=3,
    attention_heads=4,
    memory_at=(1,),
    memory_slots=4096,
    memory_heads=4,
    memory_k=4,
    memory_key_dim=32,
    background_batches=200,
    background_batch_size=64,
    world_scale=0.1,
    kinds=("statement", "question", "arithmetic", "prose"),
)
LOOK = 0.1  # most of the time that measuring may take
BATCHES = 8  # of text, for the usage of slots while training


class Train(TrainingPanel):
    """Train a small model with a memory layer, from nothing, and watch it fill its slots.

    When it has ended, or Finish was pressed, `panel.lab` is a `Lab` for the other panels, and `panel.lab.world` tells
    what it knows. Two minutes suffice to recall a small world, not to find a newly taught fact again from a question
    in other words: for that there is the shipped model.

    Args:
        runner: `thread`, `tick` or `inline`; what suits the notebook by default.
        theme: `auto`, `light` or `dark`.
        settings: Fields of `PretrainSettings` to change, such as `steps`, `memory_slots`, `memory_k` or `seed`.

    Raises:
        ValueError: a setting is out of range, or `memory_slots` is no perfect square.
    """

    _esm = page("train.js")
    title = "A small memory model, from nothing"
    commands = ("start", "pause", "step", "finish", "reset")

    limits = traitlets.Dict().tag(sync=True)
    points = traitlets.List().tag(sync=True)  # {step, loss, old_facts, arithmetic, slots_read, top_1_percent}
    live = traitlets.Dict().tag(sync=True)  # step, total, loss, left
    heat = traitlets.Bytes(b"").tag(sync=True)  # float32 per cell of the drawn table: reads of some text

    def __init__(self, *, runner: str | None = None, theme: str = "auto", **settings):
        unknown = set(settings) - set(PretrainSettings.__dataclass_fields__)
        if unknown:
            raise ValueError(f"no setting {', '.join(sorted(unknown))}; see smft_lab.training.pretrain")
        self._settings = replace(SMALL, **settings)
        self._begin_anew()
        super().__init__(self._world, runner, theme)
        self.lab: Lab | None = None
        chosen = self._settings
        self.limits = {
            "side": side_of(chosen.memory_slots),
            "slots": chosen.memory_slots,
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "old": len(self._questions),
            "people": len(self._world.people),
            "reads": chosen.memory_heads * chosen.memory_k,
        }
        self._clear()

    def _begin_anew(self) -> None:
        settings = self._settings
        self._world, self._corpus, self._tokenizer, self._model = beginning(settings)
        self._probes = world_probes(self._world)
        old = self._probes["old_facts"]
        assert isinstance(old, QuestionProbe)
        self._questions, self._gold = list(old.questions), [accepted[0] for accepted in old.answers]
        self._sums = self._probes["arithmetic"]
        self._items = None

    def _clear(self) -> None:
        self.points, self.live, self.heat = [], {}, b""

    # Commands

    def start(self) -> None:
        """Begin, or go on."""
        if self.state in ("running", "done"):
            return
        self._go_on(self._items or self._train())

    def pause(self) -> None:
        """Stop asking for steps; Start goes on."""
        self.stop()

    def step(self) -> None:
        """One gradient step."""
        if self.state == "done":
            raise ValueError("the training is over; press Reset to train anew")
        if self.state == "running":
            self.pause()
        self._items = self._items or self._train()
        with self._claim.lock:
            last = next(self._items, None)
        if last is None:
            self._ended(None)
        else:
            self._measure(last)
            self._show(last)
            self.state = "paused"

    def finish(self) -> None:
        """End here, and make the `Lab` of what has been learned so far.

        Raises:
            ValueError: nothing has been trained.
        """
        self._runner.stop()
        if self._items is None:
            raise ValueError("there is nothing to finish yet; press Start first")
        self._items.close()
        self._ended(None)

    def reset(self) -> None:
        """Throw the model away and begin with an untrained one."""
        self._give_up()
        self._begin_anew()
        self.lab = None
        with self.hold_sync():
            self._clear()
            self.state, self.note = "idle", "An untrained model is in place."

    def as_code(self) -> str:
        """Python that trains the same model."""
        chosen = {name: value for name, value in asdict(self._settings).items() if value != getattr(SMALL, name)}
        lines = [
            "import smft_lab as smft",
            "",
            sharing.written('training = smft.widgets.Train(runner="inline")', **chosen),
            "training.start()  # some minutes",
            "print(training.points[-1])",
            'training.lab.save("mine")',
        ]
        return "\n".join(lines) + "\n"

    def _shared(self) -> tuple[Sequence[Fact], Patch | None, pd.DataFrame]:
        """What was measured."""
        return [], None, pd.DataFrame(self.points)

    def _repr_mimebundle_(self, **kwargs):
        """As any panel's; but curves without a point would tell nothing."""
        if isinstance(self._runner, InlineRunner) and not self.points:
            return {"text/plain": "The train panel. Run this cell in a notebook, and press Start."}, {}
        return super()._repr_mimebundle_(**kwargs)

    def snapshot(self) -> Picture:
        """Loss, and the shares of old facts recalled and of slots read, over the steps so far."""
        from smft_lab.charts.pictures import curves, picture

        columns = {name: [point[name] for point in self.points] for name in ("step", "loss", "old_facts", "slots_read")}
        loss = curves({"loss": (columns["step"], columns["loss"])}, "gradient steps", "nats per token", "Loss")
        shares = {"old facts recalled": "old_facts", "slots read": "slots_read"}
        lines = {name: (columns["step"], columns[column]) for name, column in shares.items()}
        progress = f"{len(self.points)} measurements" if self.points else "nothing has been trained yet"
        learned = curves(lines, "gradient steps", "share", "What it knows, and what it uses", share=True)
        return picture(loss, learned, says=f"The train panel: {progress}.")

    # Under way

    def _train(self) -> Generator[dict, None, None]:
        settings = self._settings
        optimizer = make_optimizer(self._model, settings)
        looked, wait, losses = 0.0, 0.0, []
        spent, since = 0.0, time.monotonic()  # seconds of work: a pause is none
        for done, loss in gradient_steps(self._model, optimizer, self._corpus, self._tokenizer, settings):
            losses = [*losses[-19:], loss]
            now = time.monotonic()
            view = {"step": done, "total": settings.steps, "loss": sum(losses) / len(losses)}
            view["left"] = (spent + now - since) / done * (settings.steps - done)
            if now - looked >= wait or done == settings.steps:
                self._measure(view)
                looked = time.monotonic()
                wait = (looked - now) / LOOK
            spent += time.monotonic() - since
            yield view
            since = time.monotonic()

    def _measure(self, view: dict) -> None:
        """One more point of every curve, and the picture of the table."""
        self._model.eval()
        right = recalled(self._model, self._tokenizer, self._questions, self._gold)
        usage = self._usage()
        arithmetic = self._sums.measure(self._model, self._tokenizer)["nll"]
        self._model.train()
        point = {
            "step": view["step"],
            "loss": view["loss"],
            "old_facts": right.double().mean().item(),
            "arithmetic": arithmetic,
            "slots_read": usage.share_read(),
            "top_1_percent": usage.top_share(),
        }
        with self.hold_sync():
            read = torch.stack([in_cells(count, "sum") for count in usage.count]).sum(0)
            self.heat = read.float().numpy().tobytes()
            self.points = [*self.points, point]

    def _usage(self):
        rng = Random("usage while training")
        texts = (self._corpus.texts(rng, 64) for _ in range(BATCHES))
        return measure_usage(self._model, (encode(self._tokenizer, batch) for batch in texts))

    def _ended(self, problem: BaseException | None) -> None:
        if problem is not None:
            self._failed(problem)
        elif self._can_go_on():
            self.state = "paused"
        elif self._items is not None:
            self._make_lab()

    def _make_lab(self) -> None:
        settings = self._settings
        self.state, self.note = "finishing", "Counting which slots ordinary text reads; then panel.lab is ready."
        with self._claim.lock, torch.no_grad():
            usage = background_usage(self._model.eval(), self._tokenizer, self._corpus, settings)
            self.lab = Lab(self._model, self._tokenizer, usage, self._probes, None, settings.seed, settings.world_scale)
        self._items = None
        with self.hold_sync():
            self.state = "done"
            self.note = "panel.lab is ready. Next cell: smft.widgets.Slots(panel.lab, panel.lab.world.old_facts())"
