"""Every causal family of the installed `transformers` that can be built tiny: a config with small numbers in it."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS, LARGEST = 4, 3_000_000  # blocks; numbers of a model, beyond which it is not tiny
SMALL = {
    32: "hidden_size d_model n_embd dim embed_dim word_embed_proj_dim mamba_d_ssm lru_width "
    "text_dim encoder_hidden_size embedding_size hidden_size_per_layer_input attention_hidden_size hidden_dim "
    "mamba_intermediate",
    64: "intermediate_size ffn_dim d_ff n_inner decoder_ffn_dim encoder_ffn_dim feed_forward_hidden_size "
    "ffn_hidden_size intermediate_size_mlp dense_intermediate_size ff_dim mlp_hidden_size inner_dim block_ff_dim",
    LAYERS: "num_experts num_local_experts n_routed_experts moe_num_experts num_hidden_layers n_layer num_layers "
    "decoder_layers encoder_layers n_layers num_decoder_layers "
    "num_encoder_layers",
    2: "num_attention_heads n_head num_heads decoder_attention_heads encoder_attention_heads n_heads "
    "num_key_value_heads num_kv_heads mamba_n_heads num_experts_per_tok moe_topk moe_k num_experts_per_token top_k "
    "linear_num_key_heads linear_num_value_heads indexer_n_heads index_n_heads mamba_num_heads "
    "num_local_attention_heads num_attention_groups conv_kernel "
    "first_k_dense_replace attn_layer_period",
    16: "head_dim kv_lora_rank q_lora_rank v_head_dim attention_head_dim mamba_head_dim mamba_d_head "
    "linear_key_head_dim linear_value_head_dim attn_head_dim d_kv kv_channels index_head_dim global_head_dim "
    "attention_window_size",
    8: "qk_rope_head_dim qk_nope_head_dim state_size mamba_d_state ssm_state_size mamba_dt_rank rotary_dim "
    "time_step_rank mamba_chunk_size chunk_size index_topk n_groups_unused",
    1: "n_group topk_group n_shared_experts num_shared_experts mamba_n_groups n_groups",
    24: "qk_head_dim",
    48: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
    "moe_shared_expert_intermediate_size",
    400: "vocab_size vocab_size_per_layer_input",
    256: "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length seq_length max_target_positions "
    "max_source_positions",
}
NUMBERS = {name: number for number, names in SMALL.items() for name in names.split()}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXTRA: dict[str, dict] = {
    "axk1": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "bamba": {"mamba_n_heads": 4, "attn_layer_indices": [1]},
    "falcon_h1": {"mamba_n_heads": 2},
    "granitemoehybrid": {"mamba_n_heads": 4, "layer_types": ["mamba", "attention"] * 2},
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "deepseek_v2": {"topk_group": 1, "n_group": 1, "num_experts_per_tok": 2},
    "deepseek_v3": {"head_dim": 8},
    "youtu": {"head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_offset": 1, "expert_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "vocab_size": 400},
    "blenderbot": {"max_position_embeddings": 256, "encoder_layers": 4},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3n_text": {"activation_sparsity_pattern": 0.0},
}


def tiny(values: dict, kind: str | None = None) -> dict:
    """What to override in a config of those values."""
    small: dict = {}
    for name, value in values.items():
        if isinstance(value, dict) and value.get("model_type"):
            small[name] = {"model_type": value["model_type"], **tiny(value, value["model_type"])}
        elif name in NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            small[name] = min(value, NUMBERS[name]) if value > 0 else value
        elif name in NUMBERS and value is None and name in ("head_dim", "intermediate_size"):
            continue
        elif isinstance(value, list) and len(value) > LAYERS and name.endswith(("types", "pattern", "layers")):
            small[name] = value[:LAYERS]
    small |= {name: number for name, number in TOKENS.items() if name in values}
    return small | EXTRA.get(kind or "", {})


def tiny_model(family: str):
    """A small random model of a family, in eval mode.

    Raises:
        Exception: it can't be built so.
    """
    torch.manual_seed(0)
    kind = CONFIG_MAPPING[family]
    config = kind(**tiny(kind().to_dict(), family))
    with torch.device("meta"):
        numbers = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    if numbers > LARGEST:
        raise ValueError(f"{numbers:,} numbers")
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def families() -> list[str]:
    """Model types for which there is a causal language model."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
