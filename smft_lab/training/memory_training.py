"""Teaching a newly attached memory to be used: plain text, and nothing but the memory layers learns.

A memory layer put into a finished model reads slots at random. Before facts can be written into few of them, ordinary
text has to spread over the slots in a way that means something, as it does in a model pretrained with its memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from smft_lab.lab import Lab
from smft_lab.model.attach import check_embedded, max_positions, without_memory
from smft_lab.model.drawing import drawn_from
from smft_lab.model.language_model import MemoryLlamaForCausalLM
from smft_lab.model.memory import memory_layers
from smft_lab.model.tokenizer import check_same_tokens, decoded, end_ids, pad, text_ids, train_tokenizer
from smft_lab.probes.probes import Probes, TextProbe
from smft_lab.ranges import check_counts, check_positive
from smft_lab.slots.usage import Usage, measure_usage
from smft_lab.storage import check_lab_place
from smft_lab.training.pretrain import (
    STATE,
    PretrainSettings,
    check_finite,
    make_optimizer,
    resume_state,
    save_state,
    schedule,
)
from smft_lab.training.processes import Processes
from smft_lab.writing import alone, clear_unfinished, write_atomically

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

ABOUT_FILE = "memory_training.json"  # beside the lab
HELD_OUT = 0.05  # the last of the text: the probe `prose`
PROBE_TEXTS = 120
SKEWED = 0.35  # of all reads on the top 1% of slots; from there on, public retrofits report, small t cannot learn


@dataclass(frozen=True)
class MemoryTraining:
    """How a memory is trained on a text.

    Attributes:
        steps, batch_size, window: Gradient steps, windows in each, and tokens in each of those.
        lr, value_lr: Peak AdamW rates of the memory layers, and of their value tables.
        distill: Weight, in [0, 1], of the distance (KL) to what the model said before, against the loss on the text.
        everything: Whether all weights learn, and not the memory alone.
        background_batches: The `|B|` "documents" of the idf.

    Examples:
        >>> smft.MemoryTraining(steps=100, lr=1e-3).batch_size
        32
    """

    steps: int = 500
    batch_size: int = 32
    window: int = 64
    lr: float = 2e-3
    value_lr: float = 8e-3
    warmup: int = 50
    distill: float = 0.0
    everything: bool = False
    seed: int = 0
    background_batches: int = 1000
    background_batch_size: int = 16
    checkpoint_every: int = 100

    def check(self) -> None:
        """Raise ValueError if an option is out of range."""
        counts = ("steps", "batch_size", "background_batches", "background_batch_size", "checkpoint_every")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_positive(lr=self.lr, value_lr=self.value_lr)
        if self.window < 2:
            raise ValueError(f"window must be at least 2 tokens, not {self.window}")
        if not 0 <= self.distill <= 1:
            raise ValueError(f"distill must be between 0 and 1, not {self.distill}")


class TextWindows:
    """A text as windows of tokens: those that are trained on, and the held-out rest as texts of its own.

    The rest begins at a space, or at a token where there is none near.

    Raises:
        ValueError: it is no text, or too short.

    Examples:
        >>> windows = smft.TextWindows(text, lab.tokenizer, window=16)
        >>> windows.window
        16
    """

    def __init__(self, text: str, tokenizer: PreTrainedTokenizerBase, window: int):
        if not isinstance(text, str):
            raise ValueError(f"the text must be one text, not {type(text).__name__}; join several by blank lines")
        self.tokenizer, self.window = tokenizer, window
        end = int(len(text) * (1 - HELD_OUT))
        cut = text.rfind(" ", 0, end)
        if cut >= end - len(text) // 100:
            self.ids, rest = _ids(tokenizer, text[:cut]), _ids(tokenizer, text[cut:])
        else:  # of a script without spaces
            every = _ids(tokenizer, text)
            cut = int(len(every) * (1 - HELD_OUT))
            self.ids, rest = every[:cut], every[cut:]
        if len(self.ids) < 10 * window or len(rest) < window:
            needed = math.ceil(10 * window / (1 - HELD_OUT))
            raise ValueError(f"the text has {len(self.ids) + len(rest)} tokens; at least {needed} are needed")
        starts = range(0, len(rest) - window + 1, window)
        # A window of tokens that are bytes may begin or end within a character.
        self.held_out = tuple(decoded(tokenizer, rest[i : i + window]).strip("\ufffd").strip() for i in starts)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._first = text_ids(tokenizer, "")[:1]  # the beginning-of-text token, where there is one

    def batch(self, rng: Random, size: int) -> dict[str, Int64[Tensor, "size window"]]:
        """`size` windows from anywhere, as `encode` gives them."""
        width = self.window - len(self._first) - len(end_ids(self.tokenizer))  # `pad` ends each
        starts = [rng.randrange(len(self.ids) - width) for _ in range(size)]
        batch = pad(self.tokenizer, [[*self._first, *self.ids[i : i + width]] for i in starts])
        batch["labels"][:, -1] = -100  # a window ends where it happens to end
        return batch


def check_window(model: PreTrainedModel, window: int) -> None:
    """Raise ValueError if a window has more tokens than the model reads."""
    most = max_positions(model)
    if most is not None and window > most:
        raise ValueError(f"a window of {window} tokens is more than the model reads, {most}; give a smaller one")


def pretrain_memory(
    model: PreTrainedModel,
    text: TextWindows,
    settings: MemoryTraining = MemoryTraining(),
    folder: str | Path | None = None,
    teacher: PreTrainedModel | None = None,
) -> Iterator[tuple[int, float]]:
    """Train the memory layers of `model` on a text; the other weights stay, bitwise, unless `everything` learns.

    Started by `torchrun` or `accelerate launch`, several processes share the batches; the main one writes.

    Args:
        folder: Where the state is kept every `checkpoint_every` steps; a run stopped at any moment goes on from there.
        teacher: The untouched model that `distill` compares with; by default `model` without its added memory.

    Yields:
        (steps done, loss in nats per token), once per gradient step.

    Raises:
        ValueError: an option is out of range, there is no memory layer where that alone learns, `folder` holds a run
            with other settings, `distill` has nothing to compare with, or the tokenizer gives a text other tokens each
            time.

    Examples:
        >>> windows = smft.TextWindows(text, lab.tokenizer, window=16)
        >>> model = smft.add_memory(plain, layers=[1], slots=256)
        >>> settings = smft.MemoryTraining(steps=2, batch_size=2, window=16)
        >>> [step for step, *_ in smft.pretrain_memory(model, windows, settings)]
        [1, 2]
    """
    settings.check()
    if not memory_layers(model) and not settings.everything:
        raise ValueError("the model has no memory layer; see add_memory")
    check_window(model, settings.window)
    check_same_tokens(text.tokenizer)
    check_embedded(model, [*text.ids, *end_ids(text.tokenizer)])
    if settings.distill and teacher is None:
        with without_memory(model):
            pass
    held, processes = ExitStack(), Processes()
    processes.place(model)
    if teacher is not None:
        processes.place(teacher)
    described = {**asdict(settings), "text": text.fingerprint}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    start = 0
    try:
        if folder is not None:
            folder = Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
            if processes.main:
                held.enter_context(alone(folder))
        model.requires_grad_(settings.everything)
        for layer in memory_layers(model).values():
            layer.requires_grad_(True)
        optimizer = make_optimizer(model, settings)
        if folder is not None:
            start, _ = resume_state(folder, described, model, optimizer)
        optimizer.zero_grad()  # what other training left would go into the first step
        model.train(settings.everything)  # dropout only where all of it learns
        for step in range(start, settings.steps):
            batch = processes.share(text.batch(Random(f"{settings.seed}/memory/{step}"), settings.batch_size))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, settings)
            out = model(**batch, use_cache=False)
            loss = out.loss
            if settings.distill:
                loss = (1 - settings.distill) * loss + settings.distill * _distance(model, teacher, batch, out.logits)
            mean_loss = processes.backward(loss, batch, model, out.loss)
            check_finite(step + 1, mean_loss)
            with torch.autocast(model.device.type, enabled=False):  # which can't add up norms of another dtype
                torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            torch.clear_autocast_cache()  # where a caller's block keeps the weights of before, rounded
            optimizer.zero_grad(set_to_none=False)
            done = step + 1
            if (
                folder is not None
                and processes.main
                and done % settings.checkpoint_every == 0
                and done < settings.steps
            ):
                save_state(folder, described, model, optimizer, done)
            yield done, mean_loss
    finally:
        held.close()
        for module, training in modes.items():
            module.training = training
        for parameter, wanted in before.items():
            parameter.grad = None if parameter.requires_grad else parameter.grad
            parameter.requires_grad_(wanted)


def new_model(text: str, seed: int = 0) -> tuple[MemoryLlamaForCausalLM, PreTrainedTokenizerFast]:
    """An untrained model of the built-in one's shape, with 16,384 slots, and a tokenizer trained on the text."""
    tokenizer = train_tokenizer(_parts(text), vocab_size=2048)
    shape = PretrainSettings(memory_slots=16_384).model_config(tokenizer)
    with drawn_from(seed):
        model = MemoryLlamaForCausalLM(shape)
    return model.eval(), tokenizer


def text_usage(model: PreTrainedModel, text: TextWindows, settings: MemoryTraining = MemoryTraining()) -> Usage:
    """Background usage of the slots by windows of the text."""
    check_window(model, text.window)
    rng = Random(f"{settings.seed}/background")
    size = settings.background_batch_size
    return measure_usage(model, (text.batch(rng, size) for _ in range(settings.background_batches)))


def text_lab(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: TextWindows,
    settings: MemoryTraining = MemoryTraining(),
) -> Lab:
    """A lab around a model with a memory: usage measured on the text, `prose` probed on its held-out end.

    Warns:
        UserWarning: so few slots take so many of the reads that a small t cannot learn much without harm.

    Examples:
        >>> windows = smft.TextWindows(text, lab.tokenizer, window=16)
        >>> model = smft.add_memory(plain, layers=[1], slots=256)
        >>> settings = smft.MemoryTraining(window=16, background_batches=4, background_batch_size=2)
        >>> smft.text_lab(model, lab.tokenizer, windows, settings).slots
        256
    """
    usage = text_usage(model, text, settings)
    if problem := skew(usage):
        warnings.warn(problem, stacklevel=2)
    return Lab(model, tokenizer, usage, Probes([TextProbe("prose", text.held_out[:PROBE_TEXTS], whole=False)]))


@dataclass
class LabTraining:
    """A model's memory, or all of it, trained on a text and saved as a lab: `steps()`, then `finish()`.

    Started on several processes, only the main one finishes.

    Args:
        out: Folder of the lab; an unfinished run there goes on.
        teacher: See `pretrain_memory`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    text: TextWindows
    settings: MemoryTraining
    out: Path
    teacher: PreTrainedModel | None = None
    _recent: list[float] = field(default_factory=list, init=False)  # losses

    def steps(self) -> Iterator[tuple[int, float]]:
        """Train.

        Yields:
            (steps done, loss in nats per token, the mean over the last 50 steps).

        Raises:
            ValueError: `out` is no place for a lab; and see `pretrain_memory`.
        """
        if Processes().main:
            check_lab_place(self.out, besides=[ABOUT_FILE])
        for done, loss in pretrain_memory(self.model, self.text, self.settings, self._unfinished, self.teacher):
            self._recent = [*self._recent[-49:], loss]
            yield done, self._loss

    def finish(self) -> Lab:
        """Measure the background, and save the lab."""
        self.model.cpu()
        lab = text_lab(self.model, self.tokenizer, self.text, self.settings)
        lab.save(self.out)
        write_atomically(self.out / ABOUT_FILE, _about(self.settings, lab.usage, self._loss))
        clear_unfinished(self._unfinished, [STATE])
        return lab

    @property
    def _unfinished(self) -> Path:
        return self.out / "unfinished"

    @property
    def _loss(self) -> float:
        return sum(self._recent) / len(self._recent)


def skew(usage: Usage) -> str | None:
    """A warning when usage is so uneven that small t cannot work ("hub slots"); None when it is not."""
    share = usage.top_share(0.01)
    if share < SKEWED:
        return None
    return (
        f"{share:.0%} of all reads go to 1% of the slots; new facts will share slots with everything else. "
        "Train the memory longer or on more text, or use fewer slots"
    )


def _distance(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    batch: dict[str, Int64[Tensor, "B T"]],
    logits: Float[Tensor, "B T V"],
) -> Float[Tensor, ""]:
    """KL(before || now) in nats per token."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    with torch.no_grad():
        if teacher is not None:
            wanted = teacher(**inputs).logits
        else:
            with without_memory(model):
                wanted = model(**inputs).logits
    return F.kl_div(
        logits.flatten(0, 1).log_softmax(-1),
        wanted.flatten(0, 1).log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )


def _parts(text: str) -> Sequence[str]:
    """Pieces of some 20,000 characters: tokenizers warn of longer ones, and are slow on them."""
    lines, parts = text.splitlines(keepends=True), [""]
    for line in lines:
        if len(parts[-1]) > 20_000:
            parts.append("")
        parts[-1] += line
    return parts


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [number for part in _parts(text) for number in _plain_ids(tokenizer, part)]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # longer than the model reads


def read_text(path: str | Path) -> str:
    """A UTF-8 text file.

    Raises:
        ValueError: there is none, or it isn't UTF-8; the message names the file and, where it breaks, the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such text file")
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8; save it as UTF-8") from None


def _about(settings: MemoryTraining, usage: Usage, loss: float) -> str:
    """What is kept beside a trained memory, as JSON."""
    reads = {"slots_read": usage.share_read(), "reads_on_top_1_percent": usage.top_share(0.01)}
    return json.dumps({"settings": asdict(settings), **reads, "last_loss": loss}, indent=2) + "\n"
