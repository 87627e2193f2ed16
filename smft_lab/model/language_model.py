"""A Llama-style causal language model in which chosen feed-forward layers are memory layers."""

from __future__ import annotations

from typing import ClassVar

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from smft_lab.model.autoclass import check_no_adapters
from smft_lab.model.memory import MemoryLayer, ProductKeys, ValueTable


class MemoryLlamaConfig(LlamaConfig):
    """A `LlamaConfig` with memory layers.

    Args:
        memory_at: Which blocks have their feed-forward replaced; the paper replaces one, the middle.
        memory_slots, memory_heads, memory_k, memory_key_dim, memory_value_dim, memory_qk_norm: See `MemoryLayer`.
        memory_shared: Whether all memory layers read one value table (Memory+), or each its own.

    Examples:
        >>> config = smft.MemoryLlamaConfig(num_hidden_layers=3, memory_at=[1], memory_slots=256)
        >>> config.memory_slots
        256
    """

    model_type = "memory_llama"
    memory_at: list[int] | tuple[int, ...] = (2,)
    memory_slots: int = 16_384
    memory_heads: int = 4
    memory_k: int = 8
    memory_key_dim: int = 64
    memory_value_dim: int | None = None
    memory_qk_norm: bool = True
    memory_shared: bool = True


class MemoryLlamaModel(LlamaModel):
    config_class = MemoryLlamaConfig

    def __init__(self, config: MemoryLlamaConfig):
        super().__init__(config)
        positions = sorted(set(config.memory_at))
        if not positions or not all(0 <= position < config.num_hidden_layers for position in positions):
            last = config.num_hidden_layers - 1
            raise ValueError(f"memory_at must name blocks between 0 and {last}, not {list(config.memory_at)}")
        values = None
        for position in positions:
            layer = MemoryLayer(
                config.hidden_size,
                slots=config.memory_slots,
                heads=config.memory_heads,
                k=config.memory_k,
                key_dim=config.memory_key_dim,
                value_dim=config.memory_value_dim,
                qk_norm=config.memory_qk_norm,
                values=values,
            )
            self.layers[position].mlp = layer
            if config.memory_shared:
                values = layer.values


class MemoryLlamaForCausalLM(LlamaForCausalLM):
    """`generate()`, `save_pretrained()` and `from_pretrained()` work as for any `transformers` model.

    Examples:
        >>> sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
        >>> config = smft.MemoryLlamaConfig(**sizes, num_hidden_layers=3, memory_at=[1], memory_slots=256)
        >>> smft.MemoryLlamaForCausalLM(config)(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 100])
    """

    config_class = MemoryLlamaConfig
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"keys", "values"}  # see `smft_lab.model.memory.Wide`

    def __init__(self, config: MemoryLlamaConfig):
        super().__init__(config)
        self.model = MemoryLlamaModel(config)
        positions = sorted(set(config.memory_at))
        if config.memory_shared and len(positions) > 1:
            table = "model.layers.{}.mlp.values.weight"
            shared = {table.format(position): table.format(positions[0]) for position in positions[1:]}
            self._tied_weights_keys = {**(self._tied_weights_keys or {}), **shared}
        self.post_init()

    def save_pretrained(self, *args, **options) -> None:
        """As `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: adapters of peft are on the model.
        """
        check_no_adapters(self)
        super().save_pretrained(*args, **options)

    def _init_weights(self, module):
        if isinstance(module, ProductKeys | ValueTable):
            module.reset_parameters()
        else:
            super()._init_weights(module)


AutoConfig.register(MemoryLlamaConfig.model_type, MemoryLlamaConfig)
AutoModelForCausalLM.register(MemoryLlamaConfig, MemoryLlamaForCausalLM)
