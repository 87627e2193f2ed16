"""Train the shipped model from its seed: a generator of records, resumable, ending in a saved `Lab`."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count, islice, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from smft_lab.facts.world.corpus import MIX, UNFAMILIAR, Corpus
from smft_lab.facts.world.world import World
from smft_lab.lab import Lab
from smft_lab.model.allocator import keep_freed_memory
from smft_lab.model.drawing import drawn_from
from smft_lab.model.language_model import MemoryLlamaConfig, MemoryLlamaForCausalLM
from smft_lab.model.tokenizer import Splitter, encode, pad, train_tokenizer
from smft_lab.probes.probes import QuestionProbe, world_probes
from smft_lab.ranges import check_counts, check_positive
from smft_lab.slots.usage import Usage, measure_usage
from smft_lab.storage import WEIGHTS_FILE, check_lab_place
from smft_lab.training.processes import Processes, end_with
from smft_lab.writing import alone, atomic_file, clear_unfinished, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from smft_lab.training.memory_training import MemoryTraining

METRICS_FILE, ABOUT_FILE = "pretraining.csv", "pretraining.json"  # beside the lab
STATE = "state.safetensors"  # in the folder of an unfinished run
CHUNK = 32  # batches drawn together, so that texts of a like length share a batch
DRAWING = 4  # at most so many processes draw batches while a GPU trains: one alone would keep it waiting


@dataclass(frozen=True)
class PretrainSettings:
    """All that the checkpoint depends on; the shipped one is made with the defaults.

    Attributes:
        steps, batch_size: Gradient steps, and texts in each.
        lr, value_lr: Peak AdamW rates of everything but the value table, and of the value table (Memory Layers at
            Scale gives the values a rate of their own, since each row is read rarely).
        max_tokens: Longer texts are dropped.
        tokenizer_texts: Texts that the tokenizer is trained on.
        world_scale, kinds: Size of the built-in world, and which kinds of text are drawn (see `World`, `Corpus`).
        background_batches, background_batch_size: The |B| "documents" of the idf.
    """

    seed: int = 0
    steps: int = 4200
    batch_size: int = 128
    lr: float = 2e-3
    value_lr: float = 8e-3
    warmup: int = 200
    max_tokens: int = 64
    vocab_size: int = 4096
    tokenizer_texts: int = 30_000
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    attention_heads: int = 4
    memory_at: tuple[int, ...] = (2,)
    memory_slots: int = 57_600
    memory_heads: int = 4
    memory_k: int = 8
    memory_key_dim: int = 64
    background_batches: int = 1000
    background_batch_size: int = 64
    evaluate_every: int = 500
    world_scale: float = 1.0
    kinds: tuple[str, ...] = tuple(MIX)

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, batch_size=self.batch_size, evaluate_every=self.evaluate_every)
        check_positive(lr=self.lr, value_lr=self.value_lr, world_scale=self.world_scale)

    def model_config(self, tokenizer: PreTrainedTokenizerFast) -> MemoryLlamaConfig:
        return MemoryLlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.attention_heads,
            num_key_value_heads=self.attention_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            memory_at=list(self.memory_at),
            memory_slots=self.memory_slots,
            memory_heads=self.memory_heads,
            memory_k=self.memory_k,
            memory_key_dim=self.memory_key_dim,
            **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
        )


BASE = PretrainSettings(
    steps=20_000,
    batch_size=256,
    lr=6e-4,
    value_lr=3e-3,
    warmup=1000,
    hidden_size=1280,
    intermediate_size=3840,
    layers=6,
    attention_heads=20,
    memory_at=(3,),
    memory_slots=577_600,
    memory_key_dim=128,
    world_scale=10.0,
)  # for those with a GPU: about ten times the shipped model in facts, slots and width
PRESETS = {"shipped": PretrainSettings(), "base": BASE}


@dataclass(frozen=True)
class PretrainRecord:
    """One gradient step: `metrics` holds the probes at evaluated steps, and is empty otherwise."""

    step: int
    loss: float  # nats per token
    metrics: dict[str, float]


def training_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, settings: PretrainSettings, chunk: int
) -> list[dict]:
    """The encoded batches of one chunk; the same for the same seed and chunk, whatever came before."""
    rng = Random(f"{settings.seed}/chunk/{chunk}")
    kinds, texts = zip(*(corpus.draw(rng, chunk) for _ in range(CHUNK * settings.batch_size)), strict=True)
    split = Splitter(tokenizer)
    encoded = zip(kinds, tokenizer(list(texts))["input_ids"], strict=True)
    rows = [split(ids, rng) if kind in UNFAMILIAR else ids for kind, ids in encoded]
    rows = sorted((ids for ids in rows if len(ids) < settings.max_tokens), key=len)  # little padding
    bounds = [round(i * len(rows) / CHUNK) for i in range(CHUNK + 1)]
    batches = [pad(tokenizer, rows[a:b]) for a, b in pairwise(bounds)]
    rng.shuffle(batches)
    return batches


def pretrain(out: str | Path, settings: PretrainSettings = PretrainSettings()) -> Iterator[PretrainRecord]:
    """Train a memory-layer model on the built-in world and save it as a lab in `out`.

    Stopping at any moment loses at most `evaluate_every` steps: the next call with the same `out` goes on from there.

    Started by `torchrun` or `accelerate launch`, several processes share the batches; the main one writes.

    Yields:
        One record per gradient step.

    Raises:
        ValueError: `out` holds a finished lab, or an unfinished run with other settings.
    """
    keep_freed_memory()
    out = Path(out)
    on_gpu = torch.cuda.is_available()
    processes = Processes(torch.device("cuda") if on_gpu else None)
    if processes.main:
        besides = () if (out / "unfinished" / STATE).exists() else (METRICS_FILE, ABOUT_FILE)
        check_lab_place(out, besides=besides)  # an unfinished run may have written them
    unfinished = out / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    with alone(unfinished) if processes.main else nullcontext(), _tf32() if on_gpu else nullcontext():
        yield from _pretrain(out, unfinished, settings, processes)


@contextmanager
def _tf32() -> Iterator[None]:
    """Multiply in TF32 until the block ends: several times faster, and exact enough for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _pretrain(
    out: Path, unfinished: Path, settings: PretrainSettings, processes: Processes
) -> Iterator[PretrainRecord]:
    world, corpus, tokenizer, model = beginning(settings)
    processes.place(model)
    optimizer = make_optimizer(model, settings)
    start, rows = resume_state(unfinished, asdict(settings), model, optimizer)
    probes = world_probes(world)
    began = time.perf_counter()
    earlier = rows[-1]["seconds"] if rows else 0.0
    losses: list[float] = []
    for done, loss in gradient_steps(model, optimizer, corpus, tokenizer, settings, start, processes):
        losses.append(loss)
        metrics = {}
        if processes.main and done % settings.evaluate_every == 0 and done < settings.steps:
            metrics = _flat(probes.measure(model, tokenizer))
            seconds = round(earlier + time.perf_counter() - began, 1)
            rows.append({"step": done, "seconds": seconds, "loss": sum(losses) / len(losses), **metrics})
            losses = []
            save_state(unfinished, asdict(settings), model, optimizer, done, rows)
        yield PretrainRecord(done, loss, metrics)
    if not processes.main:
        return
    round_to_half(model)  # what is saved and measured is what will be loaded: 16-bit weights
    metrics, usage = final_metrics(model, tokenizer, world, corpus, settings)
    model.cpu()
    seconds = round(earlier + time.perf_counter() - began, 1)
    rows.append({"step": settings.steps, "seconds": seconds, "loss": sum(losses) / max(1, len(losses)), **metrics})
    _write_metrics(out / METRICS_FILE, rows)
    write_atomically(out / ABOUT_FILE, json.dumps(asdict(settings), indent=2) + "\n")
    lab = Lab(model, tokenizer, usage, probes, None, settings.seed, settings.world_scale)
    lab.save(out)
    store_in_half(out / WEIGHTS_FILE)
    clear_unfinished(unfinished, [STATE])
    yield PretrainRecord(settings.steps, rows[-1]["loss"], metrics)


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every number of a float32 model to what 16 bits can hold."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def store_in_half(file: Path) -> None:
    """Make 16-bit numbers of those of a weights file, which takes half the room."""
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(file).items()
    }
    with atomic_file(file) as partial:
        save_file(weights, partial, {"format": "pt"})


def beginning(settings: PretrainSettings) -> tuple[World, Corpus, PreTrainedTokenizerFast, MemoryLlamaForCausalLM]:
    """The world, its corpus, a tokenizer trained on it, and the untrained model, all from the seed."""
    world, corpus, tokenizer = _texts(settings)
    with drawn_from(settings.seed):
        model = MemoryLlamaForCausalLM(settings.model_config(tokenizer))
    return world, corpus, tokenizer, model.train()


@lru_cache(1)
def _texts(settings: PretrainSettings) -> tuple[World, Corpus, PreTrainedTokenizerFast]:
    """The world, its corpus, and a tokenizer trained on it."""
    world = World(settings.seed, settings.world_scale)
    corpus = Corpus(world, settings.kinds)
    texts = corpus.texts(Random(f"{settings.seed}/tokenizer"), settings.tokenizer_texts)
    return world, corpus, train_tokenizer(texts, settings.vocab_size)


def _chunk(settings: PretrainSettings, chunk: int) -> list[dict]:
    _, corpus, tokenizer = _texts(settings)
    return training_batches(corpus, tokenizer, settings, chunk)


def drawn_ahead(settings: PretrainSettings, first: int) -> Iterator[list[dict]]:
    """The chunks of `training_batches` from the first on, drawn by other processes before they are asked for."""
    from joblib import cpu_count
    from joblib.externals.loky import ProcessPoolExecutor  # one of our own: the shared one is joblib.Parallel's

    workers = max(1, min(DRAWING, cpu_count() - 1))
    pool = ProcessPoolExecutor(
        workers, env={"TOKENIZERS_PARALLELISM": "false"}, initializer=end_with, initargs=(os.getpid(),)
    )
    asked = (pool.submit(_chunk, settings, chunk) for chunk in range(first, math.ceil(settings.steps / CHUNK)))
    try:
        waiting = deque(islice(asked, 2 * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(islice(asked, 1))
    finally:
        pool.shutdown(kill_workers=True)


def gradient_steps(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    settings: PretrainSettings,
    start: int = 0,
    processes: Processes | None = None,
) -> Iterator[tuple[int, float]]:
    """Train from step `start` on; yields (steps done, loss in nats per token)."""
    processes = processes or Processes()
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        chunks = drawn_ahead(settings, start // CHUNK)
    else:
        chunks = (training_batches(corpus, tokenizer, settings, chunk) for chunk in count(start // CHUNK))
    for step in range(start, settings.steps):
        if step == start or step % CHUNK == 0:
            batches = next(chunks)
        rate = schedule(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        batch = processes.share(batches[step % CHUNK])
        loss = processes.backward(model(**batch).loss, batch, model)
        check_finite(step + 1, loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=on_gpu)  # a CPU is faster with the memory it has
        yield step + 1, loss


def background_usage(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, settings: PretrainSettings
) -> Usage:
    """Usage of the slots by fresh text of the corpus."""
    rng = Random(f"{settings.seed}/background")
    texts = (corpus.texts(rng, settings.background_batch_size) for _ in range(settings.background_batches))
    return measure_usage(model, (encode(tokenizer, batch, model.device) for batch in texts))


def final_metrics(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World, corpus: Corpus, settings: PretrainSettings
) -> tuple[dict[str, float], Usage]:
    """What the shipped model is judged by, over *all* old facts, and its background usage."""
    model.eval()
    old = world.old_facts()
    metrics = _flat(world_probes(world).measure(model, tokenizer))
    everything = QuestionProbe.of("all_old_facts", old).measure(model, tokenizer)
    metrics["all_old_facts_em"] = everything["em"]
    questions, answers = zip(*world.unseen_questions(), strict=True)
    unseen = QuestionProbe("unseen", questions, answers)
    metrics["all_old_facts_em_unseen_forms"] = unseen.measure(model, tokenizer)["em"]
    usage = background_usage(model, tokenizer, corpus, settings)
    metrics["slots_read"] = usage.share_read()
    metrics["reads_on_top_1_percent"] = usage.top_share(0.01)
    return metrics, usage


def make_optimizer(model: nn.Module, settings: PretrainSettings | MemoryTraining) -> torch.optim.AdamW:
    """AdamW on what takes a gradient, the value tables at a rate of their own (`lr` and `value_lr` of `settings`)."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    values = [p for name, p in named if name.endswith("values.weight")]
    others = [p for name, p in named if not name.endswith("values.weight")]
    groups = [
        {"params": others, "peak": settings.lr, "weight_decay": 0.01},
        {"params": values, "peak": settings.value_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


def check_finite(step: int, loss: float) -> None:
    """Raise ValueError if the loss of a step, from 1, is not finite: what is trained on it is not a number either."""
    if not math.isfinite(loss):
        raise ValueError(f"step {step}: the loss is {loss}, so nothing more is learned; lower lr, or train in float32")


def schedule(step: int, settings: PretrainSettings | MemoryTraining) -> float:
    """Linear warm-up, then cosine to 2% of the peak."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    part = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part))


def _flat(measured: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{probe}_{metric}": value for probe, metrics in measured.items() for metric, value in metrics.items()}


def save_state(
    folder: Path,
    settings: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    rows: Sequence[dict] = (),
) -> None:
    """Keep what learns and its optimizer in `folder`, whole or not at all, for `resume_state`; to be called `alone`."""
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for name, tensor in optimizer.state[parameter].items():
            tensors[f"optimizer.{i}.{name}"] = tensor.clone()
    about = {"step": str(step), "settings": json.dumps(settings), "rows": json.dumps(list(rows))}
    size = sum(tensor.nbytes for tensor in tensors.values())
    # Nobody else writes it, and it may be as large as the disk has room for.
    with atomic_file(folder / STATE, left_behind=0, size=size) as partial:
        save_file(tensors, partial, metadata=about)


def resume_state(
    folder: Path, settings: dict, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict]]:
    """Steps done and rows of an unfinished run in `folder`, put back into model and optimizer; 0 where there is none.

    Raises:
        ValueError: the run there had other settings, or its file is damaged.
    """
    file = folder / STATE
    if not file.exists():
        return 0, []
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata()
        earlier, step, rows = json.loads(about["settings"]), int(about["step"]), json.loads(about["rows"])
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"{file} is damaged ({reason}); delete it, and the run begins anew") from None
    if earlier != json.loads(json.dumps(settings)):
        raise ValueError(f"{folder} holds an unfinished run with other settings; finish it with those, or delete it")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"model.{name}"])
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        names, place = ("step", "exp_avg", "exp_avg_sq"), parameter.device
        optimizer.state[parameter] = {name: tensors[f"optimizer.{i}.{name}"].to(place, copy=True) for name in names}
    return step, rows


def _write_metrics(path: Path, rows: list[dict]) -> None:
    fields = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
