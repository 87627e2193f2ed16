"""Reading a GGUF file as a plain float32 model of `transformers` and its tokenizer.

A file of the llama architecture is read once and its weights go straight into the model: half of each query and key
head is stored interleaved there and is put back in two halves. `transformers` reads the other architectures.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import quantization_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INSTALL = 'pip install -c constraints.txt -e ".[real]"'
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell"}  # GGUF pre-tokenizers that split numbers
IDS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # as transformers and as GGUF call them
PLAIN_LLAMA = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.freq_base",
    "rope.dimension_count",
    "vocab_size",
}
LEFT_BY_QUANTIZERS = ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method")


def open_gguf(path: Path):
    """The model of a GGUF file, its tokenizer, and the file's name and numbers in words.

    Raises:
        ValueError: it can't be read, or the package `gguf` is missing.
    """
    if find_spec("gguf") is None:
        raise ValueError(f"{path}: the package gguf, which reads it, is not installed; {INSTALL}")
    try:
        model, tokenizer, about = _read_gguf(path)
    except Exception as problem:  # the readers raise errors of all kinds on damaged files
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise ValueError(f"{path} can't be read as a GGUF model ({reason}); copy or download it again") from None
    return model, tokenizer, about


def _read_gguf(path: Path):
    reader = _reader(path)
    model = _plain_llama(reader)
    if model is None:
        model = _from_transformers(path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        str(path.parent), gguf_file=path.name, local_files_only=True, trust_remote_code=False
    )
    _set_special_tokens(reader, model, tokenizer)
    tokenizer.name_or_path = model.config._name_or_path = path.stem
    return model, tokenizer, _about(reader, path)


def _reader(path: Path):
    """A reader that takes its fields from a plain array: of a numpy.memmap each slice is an object that takes long to
    make, and a vocabulary has hundreds of thousands."""
    from gguf import GGUFReader

    class Reader(GGUFReader):
        @property
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._plain = mapped.view(np.ndarray)

    return Reader(path)


def _value(reader, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _about(reader, path: Path) -> str:
    from gguf import LlamaFileType

    stored = Counter()
    for tensor in reader.tensors:
        stored[tensor.tensor_type.name] += int(tensor.n_elements)
    bits = 8 * sum(int(tensor.n_bytes) for tensor in reader.tensors) / stored.total()
    try:
        kind = LlamaFileType(_value(reader, "general.file_type")).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        kind = stored.most_common(1)[0][0]
    name = re.sub(rf"[.-]{re.escape(kind)}$", "", path.stem, flags=re.IGNORECASE)
    return f"{name}, {kind} ({bits:.1f} bits a weight)"


def _plain_llama(reader):
    """A `LlamaForCausalLM` from a file of that architecture; None where the file holds more than this reads."""
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    if _value(reader, "general.architecture") != "llama":
        return None
    metadata = {key.removeprefix("llama."): _value(reader, key) for key in reader.fields if key.startswith("llama.")}
    if not set(metadata) <= PLAIN_LLAMA or any(isinstance(value, list) for value in metadata.values()):
        return None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads, width = metadata["attention.head_count"], metadata["embedding_length"]
    key_heads = metadata.get("attention.head_count_kv", heads)
    head_dim = metadata.get("attention.key_length", width // heads)
    if {metadata.get(width, head_dim) for width in ("rope.dimension_count", "attention.value_length")} != {head_dim}:
        return None
    config = LlamaConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),  # its dimensions are told last to first
        hidden_size=width,
        intermediate_size=metadata["feed_forward_length"],
        num_hidden_layers=metadata["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head_dim,
        max_position_embeddings=metadata["context_length"],
        rms_norm_eps=metadata["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata.get("rope.freq_base", 10_000.0)},
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        tie_word_embeddings="output.weight" not in tensors,
    )
    with torch.device("meta"):
        names = list(LlamaForCausalLM(config).state_dict())
    if config.tie_word_embeddings:
        names.remove("lm_head.weight")
    called = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    there = {called.get_name(name, try_suffixes=(".weight", ".bias")): name for name in names}
    if set(there) != set(tensors):
        return None
    weights = {}
    for name, tensor in tensors.items():
        array = dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in name or ".attn_k." in name:
            count = heads if ".attn_q." in name else key_heads
            array = array.reshape(count, head_dim // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        weights[there[name]] = torch.tensor(array, dtype=torch.float32)  # copies: the file stays as it is
    own = {"config": config, "state_dict": weights, "dtype": torch.float32}
    model = LlamaForCausalLM.from_pretrained(None, trust_remote_code=False, **own)
    model.generation_config = GenerationConfig.from_model_config(config)
    return model


def _from_transformers(path: Path):
    """A model of an architecture that `transformers` reads, with no trace left that it was quantized."""
    options = {"gguf_file": path.name, "dtype": torch.float32, "trust_remote_code": False, "local_files_only": True}
    if hasattr(quantization_config, "GgufConfig"):  # older versions know nothing else than numbers in full
        options["quantization_config"] = quantization_config.GgufConfig(dequantize=True)
    with redirect_stderr(io.StringIO()):  # a progress bar that no option turns off
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), **options)
    for owner in (model, model.config):
        for name in LEFT_BY_QUANTIZERS:
            if name in vars(owner):
                delattr(owner, name)
    return model


def _set_special_tokens(reader, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give model and tokenizer the special tokens that the file names, and let it say whether texts begin with one."""
    from tokenizers import pre_tokenizers, processors

    tokens = _value(reader, "tokenizer.ggml.tokens")
    for name, called in IDS.items():
        number = _value(reader, f"tokenizer.ggml.{called}_token_id")
        setattr(tokenizer, f"{name}_token", None if number is None else tokens[number])
        if name != "unk":
            setattr(model.config, f"{name}_token_id", number)
            setattr(model.generation_config, f"{name}_token_id", number)
    if _value(reader, "tokenizer.chat_template"):
        tokenizer.chat_template = _value(reader, "tokenizer.chat_template")
    backend = tokenizer.backend_tokenizer
    if _value(reader, "tokenizer.ggml.model") == "gpt2" and _value(reader, "tokenizer.ggml.pre") in SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    bos, begins = tokenizer.bos_token_id, _value(reader, "tokenizer.ggml.add_bos_token")
    if begins is None or bos is None:
        return
    plain = backend.encode("a", add_special_tokens=False).ids
    ids = backend.encode("a", add_special_tokens=True).ids
    if begins != (ids[:1] == [bos] and ids != plain):
        token = tokenizer.bos_token
        single, two = (f"{token} $A", f"{token} $A {token} $B") if begins else ("$A", "$A $B")
        special = [(token, bos)] if begins else []
        backend.post_processor = processors.TemplateProcessing(single=single, pair=two, special_tokens=special)
