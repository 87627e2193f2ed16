"""SMFT Lab: an open, interactive lab for sparse memory finetuning (Lin et al. 2025, arXiv 2510.15103).

>>> import smft_lab as smft
>>> lab = smft.load()                                  # the shipped memory-layer language model
>>> facts = smft.new_facts(20)                         # people it has never met
>>> comparison = smft.compare(lab, facts, seeds=1)     # sparse, full and LoRA; comparison.chart()
>>> smft.widgets.TopT(lab, facts)                      # in a notebook: drag the slider, watch it learn and forget
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers read: the names of _HOME once more
    from smft_lab import charts, widgets
    from smft_lab.experiments.compare import Comparison, compare
    from smft_lab.experiments.retrofit import Retrofit, retrofit
    from smft_lab.experiments.run import Run, run
    from smft_lab.facts.documents import read_documents
    from smft_lab.facts.fact import Fact
    from smft_lab.facts.files import FactsError, read_facts
    from smft_lab.facts.own_facts import own_fact
    from smft_lab.facts.public.datasets import read_dataset
    from smft_lab.facts.world.world import World, changed_facts, new_facts
    from smft_lab.finetuning.finetune import Step, finetune
    from smft_lab.finetuning.methods.full import Full
    from smft_lab.finetuning.methods.full_with_replay import Replay
    from smft_lab.finetuning.methods.lora import Lora
    from smft_lab.finetuning.methods.osf import Osf
    from smft_lab.finetuning.methods.sparse import Sparse
    from smft_lab.finetuning.rows import RowOptimizer
    from smft_lab.lab import Lab, load
    from smft_lab.model.attach import add_memory, without_memory
    from smft_lab.model.language_model import MemoryLlamaConfig, MemoryLlamaForCausalLM
    from smft_lab.model.memory import MemoryLayer, memory_layers, observe_reads, value_tables
    from smft_lab.model.opening import open_model
    from smft_lab.probes.choices import ChoiceProbe, lm_eval_probe
    from smft_lab.probes.known import KnownSearch, known_facts
    from smft_lab.probes.probes import Probes, QuestionProbe, TextProbe, learned_probes, text_windows
    from smft_lab.probes.prompts import PromptForm
    from smft_lab.recipe import Recipe
    from smft_lab.reproduce.measured import measured_blocks
    from smft_lab.slots.addresses import measure_addresses, measure_loudness
    from smft_lab.slots.combine import combine, conflicts, diff, hold
    from smft_lab.slots.coverage import coverage, fact_counts
    from smft_lab.slots.patch import Patch, row_changes
    from smft_lab.slots.reading import core_set, token_reads
    from smft_lab.slots.scores import slot_scores
    from smft_lab.slots.selection import sparse_mode
    from smft_lab.slots.usage import Usage, measure_usage
    from smft_lab.training.memory_training import MemoryTraining, TextWindows, pretrain_memory, text_lab
    from smft_lab.widgets.health import free_memory, setup
    from smft_lab.widgets.shared_page import page

_HOME = {  # public name -> module; imported when first used, so that `import smft_lab` stays light
    "Fact": "smft_lab.facts.fact",
    "World": "smft_lab.facts.world.world",
    "new_facts": "smft_lab.facts.world.world",
    "changed_facts": "smft_lab.facts.world.world",
    "read_facts": "smft_lab.facts.files",
    "read_dataset": "smft_lab.facts.public.datasets",
    "read_documents": "smft_lab.facts.documents",
    "FactsError": "smft_lab.facts.files",
    "own_fact": "smft_lab.facts.own_facts",
    "MemoryLayer": "smft_lab.model.memory",
    "add_memory": "smft_lab.model.attach",
    "without_memory": "smft_lab.model.attach",
    "open_model": "smft_lab.model.opening",
    "TextWindows": "smft_lab.training.memory_training",
    "MemoryTraining": "smft_lab.training.memory_training",
    "pretrain_memory": "smft_lab.training.memory_training",
    "text_lab": "smft_lab.training.memory_training",
    "Retrofit": "smft_lab.experiments.retrofit",
    "retrofit": "smft_lab.experiments.retrofit",
    "Recipe": "smft_lab.recipe",
    "observe_reads": "smft_lab.model.memory",
    "value_tables": "smft_lab.model.memory",
    "memory_layers": "smft_lab.model.memory",
    "MemoryLlamaConfig": "smft_lab.model.language_model",
    "MemoryLlamaForCausalLM": "smft_lab.model.language_model",
    "Usage": "smft_lab.slots.usage",
    "measure_usage": "smft_lab.slots.usage",
    "slot_scores": "smft_lab.slots.scores",
    "coverage": "smft_lab.slots.coverage",
    "fact_counts": "smft_lab.slots.coverage",
    "sparse_mode": "smft_lab.slots.selection",
    "core_set": "smft_lab.slots.reading",
    "token_reads": "smft_lab.slots.reading",
    "Sparse": "smft_lab.finetuning.methods.sparse",
    "Full": "smft_lab.finetuning.methods.full",
    "Lora": "smft_lab.finetuning.methods.lora",
    "Replay": "smft_lab.finetuning.methods.full_with_replay",
    "Osf": "smft_lab.finetuning.methods.osf",
    "RowOptimizer": "smft_lab.finetuning.rows",
    "Patch": "smft_lab.slots.patch",
    "row_changes": "smft_lab.slots.patch",
    "combine": "smft_lab.slots.combine",
    "conflicts": "smft_lab.slots.combine",
    "diff": "smft_lab.slots.combine",
    "hold": "smft_lab.slots.combine",
    "Probes": "smft_lab.probes.probes",
    "QuestionProbe": "smft_lab.probes.probes",
    "TextProbe": "smft_lab.probes.probes",
    "ChoiceProbe": "smft_lab.probes.choices",
    "lm_eval_probe": "smft_lab.probes.choices",
    "PromptForm": "smft_lab.probes.prompts",
    "KnownSearch": "smft_lab.probes.known",
    "known_facts": "smft_lab.probes.known",
    "learned_probes": "smft_lab.probes.probes",
    "text_windows": "smft_lab.probes.probes",
    "Lab": "smft_lab.lab",
    "load": "smft_lab.lab",
    "Step": "smft_lab.finetuning.finetune",
    "finetune": "smft_lab.finetuning.finetune",
    "Run": "smft_lab.experiments.run",
    "run": "smft_lab.experiments.run",
    "Comparison": "smft_lab.experiments.compare",
    "compare": "smft_lab.experiments.compare",
    "setup": "smft_lab.widgets.health",
    "free_memory": "smft_lab.widgets.health",
    "measured_blocks": "smft_lab.reproduce.measured",
    "measure_addresses": "smft_lab.slots.addresses",
    "measure_loudness": "smft_lab.slots.addresses",
    "page": "smft_lab.widgets.shared_page",
}
__all__ = [
    "ChoiceProbe",
    "Comparison",
    "Fact",
    "FactsError",
    "Full",
    "KnownSearch",
    "Lab",
    "Lora",
    "MemoryLayer",
    "MemoryLlamaConfig",
    "MemoryLlamaForCausalLM",
    "MemoryTraining",
    "Osf",
    "Patch",
    "Probes",
    "PromptForm",
    "QuestionProbe",
    "Recipe",
    "Replay",
    "Retrofit",
    "RowOptimizer",
    "Run",
    "Sparse",
    "Step",
    "TextProbe",
    "TextWindows",
    "Usage",
    "World",
    "add_memory",
    "changed_facts",
    "charts",
    "combine",
    "compare",
    "conflicts",
    "core_set",
    "coverage",
    "diff",
    "fact_counts",
    "finetune",
    "free_memory",
    "hold",
    "known_facts",
    "learned_probes",
    "lm_eval_probe",
    "load",
    "measure_addresses",
    "measure_loudness",
    "measure_usage",
    "measured_blocks",
    "memory_layers",
    "new_facts",
    "observe_reads",
    "open_model",
    "own_fact",
    "page",
    "pretrain_memory",
    "read_dataset",
    "read_documents",
    "read_facts",
    "retrofit",
    "row_changes",
    "run",
    "setup",
    "slot_scores",
    "sparse_mode",
    "text_lab",
    "text_windows",
    "token_reads",
    "value_tables",
    "widgets",
    "without_memory",
]
__version__ = "0.1.0"


if not TYPE_CHECKING:  # to which it would mean that there is every name

    def __getattr__(name: str):
        if name in ("charts", "widgets"):
            return import_module(f"smft_lab.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'smft_lab' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


class _AutoClasses(MetaPathFinder):
    """Registers the models with a memory as soon as the auto classes of `transformers` are imported, and not before.

    Else a saved one could not be opened without naming this package again, or `import smft_lab` would import torch.
    Most models of `transformers` import the auto classes on their own way in, when no other model can be imported yet:
    then it is tried again when the next of them is in.
    """

    NAME = "transformers.models.auto.modeling_auto"

    def find_spec(self, name, path=None, target=None):
        if not name.startswith("transformers.") or ".modeling_" not in name:
            return None
        others = (finder for finder in list(sys.meta_path) if type(finder).__name__ != type(self).__name__)
        specs = (find(name, path, target) for finder in others if (find := getattr(finder, "find_spec", None)))
        spec = next((spec for spec in specs if spec is not None), None)  # an editable install has a finder of its own
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if self.NAME in sys.modules and self in sys.meta_path:
                self.register()

        spec.loader.exec_module = exec_module
        return spec

    def register(self) -> None:
        sys.meta_path.remove(self)
        try:
            _register()
        except ImportError:
            sys.meta_path.insert(0, self)


def _register() -> None:
    for name in ("autoclass", "language_model"):
        import_module(f"smft_lab.model.{name}")


if _AutoClasses.NAME in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AutoClasses())
