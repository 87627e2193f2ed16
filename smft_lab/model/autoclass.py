"""Saved models with a memory, for the auto classes of `transformers`.

A model that `add_memory` changed is of a class that knows nothing of memories. Its `save_pretrained` therefore writes a
`config.json` of a type of its own, with the model's config in it: `AutoModelForCausalLM.from_pretrained` then gives the
model back with its memory. A program that hasn't imported smft_lab refuses it instead of leaving the memory out, and so
do the classes of `transformers` anywhere, the model's own too.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

CONFIG_KEY = "smft_memory"  # in `model.config`: what `add_memory` was asked for, so that a saved model can be rebuilt
GENERATION_FILE = "generation_config.json"
INDEX = "model.safetensors.index.json"
NUMBERS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PACKED = (torch.uint8, torch.int8, torch.int32)
PLAIN_KINDS = (Tensor, nn.Parameter)
# A config class of transformers takes the values of any file, or a config of its own type that is nested in them. Both
# refuse to make a model of what they took, as it looks up these names, and shows them. There are two, as an option can
# take the place of one; and the configs can be read, as peft and the Trainer do.
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
REFUSAL = dict.fromkeys(IMPLEMENTATIONS, "this model has a memory; import smft_lab and open it by AutoModelForCausalLM")
# Options of `from_pretrained`: what the hub gets, what is followed, and values that ask for nothing.
FROM_HUB = ("revision", "cache_dir", "force_download", "local_files_only", "token")
FOLLOWED = ("dtype", *FROM_HUB, *IMPLEMENTATIONS, "subfolder", "output_loading_info", "adapter_kwargs")
USUAL = {
    "_from_auto": (True, False),
    "trust_remote_code": (True, False),
    "low_cpu_mem_usage": (True, False),
    "weights_only": (True,),
    "use_safetensors": (True,),
    "ignore_mismatched_sizes": (False,),
    "load_in_8bit": (False,),
    "load_in_4bit": (False,),
}


class AttachedConfig(PreTrainedConfig):
    """The config of a model that was given a memory.

    Args:
        base: The config of the model itself, as JSON values.
        narrow_buffers: See `narrow_buffers`.
    """

    model_type = CONFIG_KEY
    base: dict | None = None
    narrow_buffers: list[str] | None = None

    def of_model(self) -> PreTrainedConfig:
        """The config of the model itself, with what `add_memory` was asked for."""
        values = {name: value for name, value in (self.base or {}).items() if name not in REFUSAL}
        return AutoConfig.for_model(values.pop("model_type", ""), **values)

    def to_dict(self) -> dict[str, Any]:
        """JSON values of which no other config class makes a model."""
        return {**super().to_dict(), **REFUSAL}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options):
        """As `PreTrainedConfig.from_dict`."""
        values = {name: value for name, value in config_dict.items() if name not in REFUSAL}
        return super().from_dict(values, **options)


class AttachedForCausalLM(PreTrainedModel):
    """What `AutoModelForCausalLM` opens a saved model with a memory by; what comes out is of the model's own class."""

    config_class = AttachedConfig

    @classmethod
    def from_pretrained(cls, folder, *, config=None, dtype=None, torch_dtype=None, device_map=None, **options):
        """The model that `save_pretrained` wrote to a folder, in eval mode.

        Args:
            folder: Or a name on the hub.
            config: As it was saved.
            dtype: What to compute in; by default as it was saved. Value tables are float32 at least.
            device_map: A device, for all of it; or `auto`, the accelerator if there is one.
            options: `attn_implementation`, `experts_implementation`, `output_loading_info`, `revision`, `subfolder`,
                `cache_dir`, `force_download`, `local_files_only` and `token`, as in `transformers`. `adapter_kwargs`
                names adapters of peft that were saved of this model, which are put on it.

        Raises:
            ValueError: an option can't be followed, the folder is a saved lab, or its files don't belong together.
        """
        from smft_lab.model.attach import add_memory

        name, wanted, device = folder, _dtype(dtype or torch_dtype), _device(device_map)
        folder = _folder(folder, options)
        if (folder / "lab.json").is_file():
            raise ValueError(f"{folder} is a saved lab; smft_lab.load({str(folder)!r}).model is its model")
        saved: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check_options(options if wanted is None else {**options, "dtype": wanted}, config or saved, saved)
        own = saved.of_model()
        own.name_or_path = str(name)
        for key in IMPLEMENTATIONS:
            if (asked := options.get(key) or getattr(config, f"_{key}", None)) is not None:
                setattr(own, f"_{key}", asked)
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
            model = add_memory(new_model(own, wanted or torch.float32), **getattr(own, CONFIG_KEY))
        taken = take_weights(model, _weights(folder), as_saved=wanted is None)
        if strangers := sorted(taken ^ set(model.state_dict())):
            only = f"{strangers[0]} is in one of them only"
            raise ValueError(f"{folder}: config and weights don't belong together: {only}")
        if wanted is None:
            narrow(model, saved.narrow_buffers or [], saved.dtype)
        take_generation_config(model, folder)
        if device is not None:
            model.to(device)  # pyright: ignore[reportArgumentType]
        adapters = dict(options.get("adapter_kwargs") or {})
        if (path := adapters.pop("_adapter_model_path", None)) is not None:
            model.load_adapter(path, adapter_kwargs=adapters)
        report = {key: set() for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
        return (model.eval(), report) if options.get("output_loading_info") else model.eval()


AutoConfig.register(CONFIG_KEY, AttachedConfig, exist_ok=True)
AutoModelForCausalLM.register(AttachedConfig, AttachedForCausalLM, exist_ok=True)


def keep_when_saved(model: PreTrainedModel, shared: dict[str, str]) -> None:
    """Let `model.save_pretrained` write the memory, so that it comes back.

    Args:
        shared: State-dict names of tables, and of the one that each is the same as.
    """
    model.save_pretrained = partial(_save_pretrained, model)  # pyright: ignore[reportAttributeAccessIssue]
    if shared:
        model._tied_weights_keys = {**(model._tied_weights_keys or {}), **shared}
        model.all_tied_weights_keys = {**(getattr(model, "all_tied_weights_keys", None) or {}), **shared}


def _save_pretrained(model: PreTrainedModel, save_directory, is_main_process: bool = True, **options) -> None:
    """As `PreTrainedModel.save_pretrained`.

    Raises:
        ValueError: adapters of peft are on the model, or it is to be pushed before its config is written.
    """
    check_no_adapters(model)
    if options.get("push_to_hub"):
        raise ValueError("push_to_hub=True would leave the memory out of the config; use model.push_to_hub(name)")
    save = type(model).save_pretrained
    if "save_original_format" in inspect.signature(save).parameters:
        options["save_original_format"] = False  # the names that a weight had before do not fit beside a memory
    save(model, save_directory, is_main_process=is_main_process, **options)
    if is_main_process:
        write_config(model, save_directory)


def write_config(model: PreTrainedModel, folder: str | Path) -> None:
    """Write the `config.json` of a model with an attached memory."""
    own = copy.deepcopy(model.config)
    own.architectures, own.dtype = [type(model).__name__], model.dtype
    AttachedConfig(
        base={**json.loads(own.to_json_string()), **REFUSAL},
        architectures=own.architectures,
        dtype=model.dtype,
        narrow_buffers=narrow_buffers(model),
    ).save_pretrained(folder)


def take_generation_config(model: PreTrainedModel, folder: Path) -> None:
    """Give a model the generation config in a folder, if there is one: it may say what ends a turn.

    Raises:
        ValueError: the file is damaged.
    """
    file = folder / GENERATION_FILE
    if file.is_file():
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{file} holds no settings")
        model.generation_config = GenerationConfig.from_dict(values)


def narrow_buffers(model: nn.Module) -> list[str]:
    """Names of the buffers that no file keeps and that are half precision: a model made so by `model.half()` has its
    rotary frequencies rounded, and one that was loaded in half precision has not."""
    names = model.state_dict().keys()
    narrow_ones = ((name, tensor) for name, tensor in model.named_buffers() if tensor.is_floating_point())
    return [name for name, tensor in narrow_ones if tensor.dtype.itemsize < 4 and name not in names]


def narrow(model: nn.Module, names: Iterable[str], dtype: torch.dtype) -> None:
    """Make the buffers of these names half precision, see `narrow_buffers`."""
    buffers = dict(model.named_buffers())
    for name in names:
        buffers[name].data = buffers[name].to(dtype)


def read_config(folder: str | Path) -> PreTrainedConfig:
    """The config of the model in a folder; of a model that was given a memory, the model's own."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return config.of_model() if isinstance(config, AttachedConfig) else config


def new_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model of that config and of the class that it names, with new weights, in eval mode.

    Raises:
        ValueError: there is no such class here.
    """
    return _class_of(config)._from_config(config, dtype=dtype).eval()


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    (name,) = getattr(config, "architectures", None) or [None]
    kind = getattr(transformers, name or "", None)
    if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
        return kind
    kind: Any = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if kind is None or name not in (None, kind.__name__):
        raise ValueError(
            f"no class {name} for a config of the type {config.model_type!r} in transformers; "
            "register it with AutoModelForCausalLM"
        )
    return kind


def check_rebuilds(model: PreTrainedModel, memories: Iterable[str] = ()) -> None:
    """Raise ValueError unless a model of this config is what this model is, but for what stands at its memories.

    Args:
        memories: Names of the modules that stand where a feed-forward was.
    """
    name = type(model).__name__
    config = type(model.config).from_dict({**model.config.to_dict(), "architectures": [name]})
    known = _class_of(config)
    if known is not type(model):
        raise ValueError(f"{name} can't be rebuilt from its config, which stands for {known.__name__}")
    with torch.device("meta"):
        another = known._from_config(config)
    rebuilt = {key: tuple(tensor.shape) for key, tensor in another.state_dict().items()}
    places = tuple(place.rpartition(".")[0] + "." for place in memories)  # what stood in parts has been joined there
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for key in sorted({*rebuilt, *own}):
        if not key.startswith(places or ("\0",)) and rebuilt.get(key) != own.get(key):
            shapes = f"{own.get(key, 'missing')} in it, and {rebuilt.get(key, 'missing')} by its config"
            raise ValueError(f"{name} can't be rebuilt from its config: {key} is {shapes}")
    described = _sharing(another)
    for key, same in _sharing(model).items():
        apart = sorted(same - described.get(key, same))
        if apart and not key.startswith(places or ("\0",)) and not apart[0].startswith(places or ("\0",)):
            raise ValueError(f"{name} can't be rebuilt from its config: {key} and {apart[0]} are one weight in it")


def _sharing(model: nn.Module) -> dict[str, set[str]]:
    """Of each parameter's name, all names that the parameter has."""
    names: dict[int, set[str]] = {}
    parameters = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters:
        names.setdefault(id(parameter), set()).add(name)
    return {name: names[id(parameter)] for name, parameter in parameters}


@torch.no_grad()
def take_weights(model: nn.Module, files: Iterable[Path], as_saved: bool = False) -> set[str]:
    """Put what is in safetensors files into a model; what shares its memory is taken once.

    Args:
        as_saved: Whether weights become of the dtype that they were saved in.

    Returns:
        State-dict names of what was taken, and of what shares its memory; and of what the model has no place for.
    """
    places: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    places |= dict(model.named_buffers(remove_duplicate=False))
    taken: set[str] = set()
    same: dict[int, list[str]] = {}
    for name, tensor in places.items():
        same.setdefault(id(tensor), []).append(name)
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                value, place = stored.get_tensor(name), places.get(name)
                if place is None or place.shape != value.shape:
                    taken.add(name if place is None else f"{name} of that shape")
                    continue
                if as_saved and place.dtype != value.dtype:
                    place.data = value.to(place.device)
                else:
                    place.copy_(value)
                taken.update(same[id(place)])
    return taken


def has_adapters(model: nn.Module) -> bool:
    """Whether modules of peft are in a model."""
    return any(type(module).__module__.startswith("peft.") for module in model.modules())


def check_no_adapters(model: nn.Module) -> None:
    """Raise ValueError if adapters of peft are on a model: what is saved of it then can't be loaded."""
    if has_adapters(model):
        advice = "merge them or take them off first, by merge_and_unload() or unload() of the model that peft gave"
        lasting = "what model.add_adapter or load_adapter put on does not come off: load the model anew"
        raise ValueError(f"adapters of peft are on the model, and it can't be saved with them: {advice}; {lasting}")


def check_own_weights(model: nn.Module) -> None:
    """Raise ValueError unless a model's weights are plain numbers of its own, in memory.

    Adapters of peft are no part of what is saved, reset or taught; offloaded weights can't be written, and quantized
    ones can't be rebuilt.
    """
    if has_adapters(model):
        raise ValueError(
            "adapters of peft are on the model, which are no part of a lab: merge them into it before it "
            "is given a memory (model.merge_and_unload()), or take them off (model.unload())"
        )
    offloaded, quantized = (next(filter(kind, _weights_of(model)), None) for kind in (_is_offloaded, _is_quantized))
    if offloaded is not None:
        advice = "load all of it into memory, without a device_map that offloads, and in bfloat16 if it is large"
        problem = f"{offloaded[0]} is not in memory, as the model was offloaded or made without weights"
        raise ValueError(f"{problem}; {advice}")
    if quantized is not None:
        name, tensor = quantized
        held_as = str(tensor.dtype) if type(tensor) in PLAIN_KINDS else type(tensor).__name__
        advice = "load it in bfloat16 or float32, or call model.dequantize()"
        problem = f"the model is quantized ({name} is kept as {held_as})"
        raise ValueError(f"{problem}, and no lab of such a model could be saved and loaded; {advice}")


def _weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _is_offloaded(named: tuple[str, Tensor]) -> bool:
    return named[1].is_meta


def _is_quantized(named: tuple[str, Tensor]) -> bool:
    """Whether numbers are packed: in a type of their own, or in one that is computed with only after unpacking."""
    _, tensor = named
    if type(tensor) not in PLAIN_KINDS:
        return True
    if isinstance(tensor, nn.Parameter):
        return tensor.ndim > 0 and tensor.dtype not in NUMBERS
    return tensor.ndim > 1 and (tensor.dtype in PACKED or (tensor.is_floating_point() and tensor.dtype not in NUMBERS))


def check_plain(model: nn.Module) -> None:
    """Raise ValueError unless this is a model of `transformers` itself: not one that was compiled, or is in a wrapper.

    What is compiled runs past the hooks by which reads are counted, or is compiled anew for each of them.
    """
    within = [name for name in ("_orig_mod", "module") if isinstance(getattr(model, name, None), nn.Module)]
    kind = type(model).__name__
    if within and not isinstance(model, PreTrainedModel):
        advice = f"give the model in it (model.{within[0]})"
        raise ValueError(f"this is a wrapper ({kind}) around a model; {advice}, and wrap it again afterwards")
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        raise ValueError("the model was compiled, by model.compile(); load it anew, and compile it last")
    if has_adapters(model):
        return
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None or not model.can_generate():
        raise ValueError(f"{kind} is no causal language model of transformers; open one by AutoModelForCausalLM")
    if not model.config.return_dict:
        raise ValueError("model.config.return_dict is False, so the model names nothing that it gives; set it to True")


def check_trainable(model: nn.Module) -> None:
    """Raise ValueError if the weights were made under `torch.inference_mode()`: nothing can be trained through them."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            "the model was made within torch.inference_mode(), where weights can't be trained; "
            "make or load it outside of that block"
        )


def _dtype(asked) -> torch.dtype | None:
    """None for that of the file."""
    if asked in (None, "auto"):
        return None
    dtype = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={asked!r} is nothing to compute in; give one such as 'bfloat16', or leave it out")
    return dtype


def _device(asked) -> torch.device | None:
    """The one device that a device map names."""
    devices = set(asked.values()) if isinstance(asked, dict) else {asked}
    if asked is None:
        return None
    if asked == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    try:
        (device,) = {torch.device(name) for name in devices}
        return device
    except (RuntimeError, TypeError, ValueError):
        advice = "name one device, such as 'cuda:0' or 'cpu', or leave it out"
        raise ValueError(f"device_map={asked!r}: a model with a memory is opened on one device; {advice}") from None


def _check_options(options: dict[str, Any], config: AttachedConfig, saved: AttachedConfig) -> None:
    """Raise ValueError for the first that can't be followed.

    Args:
        config: The one to open the model by; `transformers` writes some options into it.
    """
    given, known = ({**(each.base or {}), **each.to_dict()} for each in (config, saved))
    asked = {name: given.get(name) for name in {*given, *known} if given.get(name) != known.get(name)}
    for name in ("base", "_name_or_path", "dtype" if "dtype" in options else ""):
        asked.pop(name, None)
    for name, value in options.items():
        if name not in FOLLOWED and value is not None and (name not in USUAL or value not in USUAL[name]):
            asked[name] = value
    for name in sorted(asked):
        advice = "leave it out, and change the opened model, or config.json, if that has it"
        raise ValueError(f"{name}={asked[name]!r} can't be followed when a model with a memory is opened; {advice}")


def _folder(name, options: dict[str, Any]) -> Path:
    """Where the files are; they are taken from the hub if they are not here."""
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(name), **{key: options[key] for key in FROM_HUB if key in options}))
    return folder / (options.get("subfolder") or "")


def _weights(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / "model.safetensors"]
    parts = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / part for part in sorted(set(parts))]
