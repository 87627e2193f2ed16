"""What a step of sparse finetuning costs, beside the other ways to take it: all in one run, on one machine.

Every contender is set up, warmed up and timed in turn, and figures are medians over repeats; what is worth quoting are
the ratios between rows of one run. Reads per token are matched: where a peer's heads or reads per head can't be set
alike, the note says what it reads.
"""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smft_lab.charts.style import kept_of
from smft_lab.finetuning.engine.frozen_layers import Batch
from smft_lab.finetuning.finetune import Step, finetune
from smft_lab.finetuning.methods import Full, Lora, Method, Sparse
from smft_lab.finetuning.rows import RowSGD
from smft_lab.finetuning.teaching import Teaching
from smft_lab.lab import Lab
from smft_lab.model.memory import MemoryLayer, RowHits, RowLookup
from smft_lab.model.tokenizer import encode
from smft_lab.slots.selection import Selection
from smft_lab.slots.usage import Usage

TOKENS, WIDTH, HEADS, READS, TOP_T = 64, 256, 4, 32, 500  # of the layer alone
SIZES = (4_096, 16_384, 65_536, 262_144, 1_048_576)
QUICK_SIZES = (4_096, 65_536)
SECONDS, LEAST = 1.0, 5  # each contender is repeated for this long, and at least this often
CACHES = 2**24  # float32 numbers, 64 MB: more than the caches hold


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        part: Which comparison it belongs to.
        what: The contender.
        slots: N, where it varies.
        value, low, high: Median, fastest and slowest of the repeats.
        unit: Of the value.
        note: What to know when comparing; why it is missing, if it is.
    """

    part: str
    what: str
    slots: int | None
    value: float | None
    low: float | None
    high: float | None
    unit: str
    note: str = ""


def machine() -> dict:
    """The machine and the versions that the figures were measured with."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def timed(step: Callable[[], object], seconds: float = SECONDS, cold: bool = False) -> tuple[float, float, float]:
    """Median, fastest and slowest of repeated calls, in milliseconds, after two that don't count.

    Args:
        cold: Whether the processor's caches are filled with something else before each call, as they are between two
            steps of a training: else a small table is timed in a cache that it would not have to itself.
    """
    step()
    step()
    took, other = [], torch.zeros(CACHES if cold else 0)
    began = time.perf_counter()
    while len(took) < LEAST or time.perf_counter() - began < seconds:
        other.add_(1)
        at = time.perf_counter()
        step()
        took.append(1000 * (time.perf_counter() - at))
    return statistics.median(took), min(took), max(took)


# (a) One sparse step of a layer, against the size of its table -------------------------------------------


class Reads:
    """What one batch of TOKENS tokens reads of a table of N slots: the same for every contender of that size."""

    def __init__(self, slots: int):
        generator = torch.Generator().manual_seed(slots)
        self.total = slots
        self.slots = torch.randint(slots, (TOKENS, HEADS * READS), generator=generator)
        self.weights = torch.rand(TOKENS, HEADS * READS, generator=generator).softmax(-1)
        self.grad = torch.randn(TOKENS, WIDTH, generator=generator)
        self.rows = self.slots.unique()[:TOP_T]

    def table(self) -> nn.Parameter:
        return nn.Parameter(torch.zeros(self.total, WIDTH))


def _ours_cached(reads: Reads):
    table, hits = reads.table(), RowHits.find(reads.rows, reads.slots, reads.weights)
    optimizer = RowSGD(table, lr=1.0)

    def step():
        RowLookup.apply(table, reads.slots, reads.weights, lambda *_: hits).backward(reads.grad)
        grad, table.grad = table.grad, None
        assert grad is not None
        grad = grad.coalesce()
        optimizer.step(grad.indices()[0], grad.values())

    return step


def _ours_plain(reads: Reads):
    torch.manual_seed(0)
    layer = MemoryLayer(WIDTH, reads.total, HEADS, READS, key_dim=64).requires_grad_(False)
    layer.values.weight.requires_grad_(True)
    x = torch.randn(1, TOKENS, WIDTH)
    nothing = torch.zeros(1, reads.total, dtype=torch.int32)
    selection = Selection(layer, Usage(1000, nothing, nothing), TOP_T)
    selection.count_at(torch.ones(1, TOKENS))
    optimizer = torch.optim.SGD([layer.values.weight], lr=1.0)

    def step():
        with selection.active():
            layer(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _masked_dense(optimizer: Callable):
    def make(reads: Reads):
        table = reads.table()
        mask = torch.zeros(reads.total, 1)
        mask[reads.rows] = 1
        table.register_hook(lambda grad: grad * mask)
        stepper = optimizer([table])

        def step():
            F.embedding_bag(reads.slots, table, per_sample_weights=reads.weights, mode="sum").backward(reads.grad)
            stepper.step()
            stepper.zero_grad()

        return step

    return make


def _sparse_bag(reads: Reads):
    table = reads.table()
    optimizer = torch.optim.SparseAdam([table], lr=1e-3)

    def step():
        y = F.embedding_bag(reads.slots, table, per_sample_weights=reads.weights, mode="sum", sparse=True)
        y.backward(reads.grad)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _stepper(module: nn.Module, forward: Callable[[], Tensor]):
    """A training step of a peer's whole layer, with SGD on all that it trains."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-3)

    def step():
        forward().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _product_key_memory(reads: Reads):
    from product_key_memory import PKM  # pyright: ignore[reportMissingImports]

    layer, x = PKM(dim=WIDTH, heads=HEADS, num_keys=math.isqrt(reads.total), topk=READS, dim_head=64), _x()
    return _stepper(layer, lambda: layer(x))


def _ultra_mem(reads: Reads):
    from ultra_mem import UltraMem  # pyright: ignore[reportMissingImports]

    layer, x = UltraMem(dim=WIDTH, num_memories=reads.total, topk=READS, core_heads=2, value_expansion=4), _x()
    mask = torch.zeros(2, layer.num_virtual_mems, dtype=torch.bool)
    mask[:, :TOP_T] = True
    return _stepper(layer, lambda: layer(x, trainable_sparse_mask=mask)[0])


def _peer(reads: Reads):
    from PEER_pytorch import PEER  # pyright: ignore[reportMissingImports]

    options = {"num_experts_per_head": READS, "non_competing_scores": False}  # else it reads one unit per head
    layer, x = PEER(dim=WIDTH, heads=HEADS, num_experts=reads.total, dim_key=64, **options), _x()
    read: list[int] = []
    handle = layer.weight_down_embed.register_forward_hook(lambda module, args, output: read.append(args[0].numel()))
    layer(x)
    handle.remove()
    if read != [TOKENS * HEADS * READS]:
        raise RuntimeError(f"PEER read {read[0]} units for {TOKENS} tokens, not {HEADS * READS} for each")
    return _stepper(layer, lambda: layer(x))


def _trainable_tokens(reads: Reads):
    from peft import TrainableTokensConfig, get_peft_model

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.Embedding(reads.total, WIDTH)

        def forward(self, slots):
            return self.values(slots)

    config = TrainableTokensConfig(target_modules=["values"], token_indices=reads.rows.tolist())
    module = get_peft_model(Holder(), config)
    return _stepper(module, lambda: (module(reads.slots) * reads.weights.unsqueeze(-1)).sum(1))


def _x() -> Tensor:
    return torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


LAYER_STEPS = {  # name: (maker, package it needs, note)
    "sparse, cached reads": (_ours_cached, None, "the lookup, its backward and the row update"),
    "sparse, whole layer": (_ours_plain, None, "with addressing, counting, TF-IDF and SGD"),
    "masked dense + SGD": (_masked_dense(lambda p: torch.optim.SGD(p, lr=1.0)), None, "the lookup alone"),
    "masked dense + AdamW": (_masked_dense(lambda p: torch.optim.AdamW(p, lr=1e-3)), None, "the lookup alone"),
    "EmbeddingBag(sparse) + SparseAdam": (_sparse_bag, None, "the lookup alone; moves every row read"),
    "product-key-memory": (_product_key_memory, "product_key_memory", "whole layer, SGD on everything"),
    "ultra-mem": (_ultra_mem, "ultra_mem", "whole layer with its mask; 2 core heads, values a quarter as wide"),
    "PEER-pytorch": (_peer, "PEER_pytorch", "whole layer; two tables, and a unit per read"),
    "PEFT TrainableTokens": (_trainable_tokens, "peft", "the lookup alone, without a bag"),
}


def layer_steps(sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """(a) One step of the layer, at every size of table."""
    part = f"one step of a layer ({TOKENS} tokens x {HEADS * READS} reads, width {WIDTH}, t = {TOP_T})"
    for slots in sizes:
        reads = Reads(slots)
        for what, (make, package, note) in LAYER_STEPS.items():
            if package and importlib.util.find_spec(package) is None:
                yield Row(part, what, slots, None, None, None, "ms", "not installed")
                continue
            try:
                yield Row(part, what, slots, *timed(make(reads), seconds, cold=True), "ms", note)
            except (RuntimeError, MemoryError, AssertionError) as problem:  # a peer's own limits
                yield Row(part, what, slots, None, None, None, "ms", f"failed: {str(problem)[:80]}")


# (b) A step, and a run to 95% learned, of the shipped model -----------------------------------------------


METHODS: dict[str, Method] = {
    "sparse, fast": Sparse(),
    "sparse, plain": Sparse(fast=False),
    "LoRA": Lora(),
    "LoRA, plain": Lora(fast=False),
    "full": Full(),
    "full, plain": Full(fast=False),
}


def model_steps(lab: Lab, facts, seconds: float) -> Iterator[Row]:
    """(b) One finetuning step of the lab's model: 64 statements of one fact, seen before."""
    texts = list(facts[0].statements[:64])
    for what, method in METHODS.items():
        inputs = encode(lab.tokenizer, texts)
        batch = Batch(inputs, inputs["attention_mask"])
        try:
            with method.resolved(lab).start(lab) as training:
                took = timed(partial(training.update, batch), seconds)
            yield Row("one finetuning step", what, lab.slots, *took, "ms")
        finally:
            lab.reset()


def runs_to_target(lab: Lab, facts, target: float = 0.95, most: int = 40) -> Iterator[Row]:
    """(b) Training seconds until `target` of `facts` is learned, by every method at its tuned rate.

    A first run asks the facts after every quarter of a pass, and so finds the step; a second one is timed to there, and
    measures nothing on the way.
    """
    part = f"a run to {target:.0%} of {len(facts)} facts learned"
    passes = most if lab.recipe is None else None  # a recipe says how many
    for what, method in METHODS.items():
        train = partial(finetune, lab, facts, method, passes=passes, probe_every=0)
        step, best, note = _first_step_at(lab, facts, train(), target)
        lab.reset()
        seconds = None
        if best >= target:
            seconds = next(run_step.seconds for run_step in train() if run_step.step == step)
            lab.reset()
        else:
            note = f"at most {best:.0%}, in {step} steps"
        yield Row(part, what, lab.slots, seconds, seconds, seconds, "s", note)


def _first_step_at(lab: Lab, facts, steps: Iterator[Step], target: float) -> tuple[int, float, str]:
    """The step that has learned `target`, or the last; the most that was learned; and what of the old was kept."""
    questions, answers = [fact.question for fact in facts], [fact.answer for fact in facts]
    often, best, last = math.ceil(Teaching.of(lab, facts).per_pass / 4), 0.0, 0
    stays = lab.probes.without(facts)
    names = {probe.name for probe in stays}
    kept = kept_of(names)
    for step in steps:
        last = step.step
        if last and last % often == 0:
            right = lab.recalled(questions, answers)
            best = max(best, right.double().mean().item())
            if best >= target:
                if kept.key not in names:
                    return last, best, f"{last} steps"
                em = stays[kept.key].measure(lab.model, lab.tokenizer)["em"]
                return last, best, f"{last} steps; {kept.facts} {em:.1%}"
    return last, best, ""


# (c) The layer's forward pass against a dense feed-forward -------------------------------------------------


def forward_passes(sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """(c) Forward pass of the memory layer, and of a dense gated feed-forward of as many FLOPs per token."""
    part = f"forward pass of {TOKENS} tokens at equal FLOPs"
    x = _x()
    for slots in sizes:
        torch.manual_seed(0)
        layer = MemoryLayer(WIDTH, slots, HEADS, READS, key_dim=64).requires_grad_(False)
        flops = 2 * (HEADS * 64 * WIDTH + HEADS * 64 * math.isqrt(slots) + HEADS * READS * WIDTH + 2 * WIDTH * WIDTH)
        inner = round(flops / (6 * WIDTH))  # three matrices of WIDTH x inner
        up, gate, down = (torch.randn(inner, WIDTH), torch.randn(inner, WIDTH), torch.randn(WIDTH, inner))

        def dense(up=up, gate=gate, down=down):
            return F.linear(F.linear(x, up) * F.silu(F.linear(x, gate)), down)

        note = f"{flops / 1e6:.2f} MFLOP a token"
        with torch.no_grad():
            yield Row(part, "memory layer", slots, *timed(partial(layer, x), seconds), "ms", note)
            yield Row(part, f"dense feed-forward, inner width {inner}", slots, *timed(dense, seconds), "ms", note)


# (d) How far from the limit that memory bandwidth sets -----------------------------------------------------


def copy_bandwidth(seconds: float) -> float:
    """Bytes a second that a large copy reads and writes here."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    milliseconds, _, _ = timed(lambda: target.copy_(source), seconds)
    return 2 * source.nbytes / (milliseconds / 1000)


def distance_from_limit(sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """(d) Bytes that the cached step must move, over the copy bandwidth, against the time it takes."""
    bandwidth = copy_bandwidth(seconds)
    yield Row("distance from the bandwidth limit", "copy bandwidth", None, bandwidth / 1e9, None, None, "GB/s")
    for slots in sizes:
        reads = Reads(slots)
        hits = RowHits.find(reads.rows, reads.slots, reads.weights)
        row = WIDTH * 4
        must = reads.slots.numel() * (row + 12) + TOKENS * row  # every read row, its slot and weight; the sums
        must += len(hits.tokens) * (row + 12) + len(reads.rows) * 3 * row  # every hit's gradient; rows read and written
        limit = 1000 * must / bandwidth
        took, low, high = timed(_ours_cached(reads), seconds)
        note = f"{must / 1e6:.1f} MB, {limit:.3f} ms at copy bandwidth; the step takes {took:.3f} ms"
        yield Row(
            "distance from the bandwidth limit",
            "sparse, cached reads",
            slots,
            took / limit,
            low / limit,
            high / limit,
            "x",
            note,
        )


# (e) Peak memory -------------------------------------------------------------------------------------------

_CHILD = """
import resource
import torch
import smft_lab as smft
from smft_lab.model.tokenizer import encode
from smft_lab.experiments.bench import METHODS
lab, facts, what = smft.load({path!r}), smft.new_facts(8, seed=1), {what!r}
if what == "inference":
    for fact in facts:
        with torch.inference_mode():
            lab.model(**encode(lab.tokenizer, list(fact.statements)))
else:
    for step in smft.finetune(lab, facts, METHODS[what], passes=2, probe_every=0):
        pass
try:  # where there is /proc: ru_maxrss is inherited from the process that started this one
    with open("/proc/self/status") as file:
        print(next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_memory(path: str | None) -> Iterator[Row]:
    """(e) Most memory that a process held which did nothing but one kind of run: 8 facts, 2 passes."""
    for what in ("inference", *METHODS):
        code = _CHILD.format(path=path, what=what)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            yield Row("peak memory of a process", what, None, None, None, None, "MB", f"failed: {why[:80]}")
            continue
        used = float(done.stdout.split()[-1])
        yield Row("peak memory of a process", what, None, used, used, used, "MB", "python and torch included")


# All of it ------------------------------------------------------------------------------------------------


def bench(lab: Lab, quick: bool = False, path: str | None = None) -> Iterator[Row]:
    """All comparisons, row by row as they are measured.

    Args:
        lab: Whose model (b) trains.
        quick: Fewer sizes, facts and repeats: under a minute on two cores.
        path: Where `lab` was loaded from, for the processes of (e).
    """
    sizes, seconds = (QUICK_SIZES, 0.1) if quick else (SIZES, SECONDS)
    world = lab.world
    yield from layer_steps(sizes, seconds)
    yield from model_steps(lab, world.new_facts(1, seed=1), seconds)
    if not quick:
        yield from runs_to_target(lab, world.new_facts(32, seed=1))
    yield from forward_passes(sizes, seconds)
    yield from distance_from_limit(sizes, seconds)
    yield from peak_memory(path)


def ratios(rows: list[Row]) -> list[float | None]:
    """Of each row to the first one of its part, among rows of the same slots: how many times as much."""
    first: dict[tuple, float] = {}
    quotients = []
    for row in rows:
        if row.value is None:
            quotients.append(None)
        else:
            quotients.append(row.value / first.setdefault((row.part, row.slots), row.value))
    return quotients
