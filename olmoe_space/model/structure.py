"""The one file that knows where transformers keeps OLMoE's weights.

`weights_of(model)` hands the engine the tensors themselves (no copies) under our own names, after
checking that the model is built as we think: an engine that guesses would compute something else
than the checkpoint, and look well while doing it. It is cheap (about 0.2 ms) and called once a
request, not once a process: on ZeroGPU the parameters get their memory in the worker.

Shapes: H hidden, E experts, I expert intermediate, A query heads, G key/value heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from .int8 import Int8Weight, Weight


class UnknownStructure(ValueError):
    """The model is not built like the OLMoE that this project computes."""


@dataclass(frozen=True)
class LayerWeights:
    attention_norm: Tensor  # [H]
    q_proj: Weight  # [A*D, H]
    k_proj: Weight  # [G*D, H]
    v_proj: Weight  # [G*D, H]
    o_proj: Weight  # [H, A*D]
    q_bias: Tensor | None
    k_bias: Tensor | None
    v_bias: Tensor | None
    o_bias: Tensor | None
    q_norm: Tensor  # [A*D], over all heads at once
    k_norm: Tensor  # [G*D]
    experts_norm: Tensor  # [H]
    router: Tensor  # [E, H]
    gate_up_proj: Weight  # [E, 2I, H], the gate's rows first
    down_proj: Weight  # [E, H, I]


@dataclass(frozen=True)
class OlmoeWeights:
    embedding: Tensor  # [V, H]
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor  # [H]
    lm_head: Weight  # [V, H]
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (any x, positions [B, N]) -> cos, sin [B, N, D]
    activation: Callable[[Tensor], Tensor]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    default_k: int
    norm_topk_prob: bool
    clip_qkv: float | None
    norm_eps: float

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """In which all is computed; matrices may be kept in 8 bits."""
        return self.embedding.dtype

    @property
    def in_int8(self) -> bool:
        return isinstance(self.lm_head, Int8Weight)


def weights_of(model: Any) -> OlmoeWeights:
    """The weights of an `OlmoeForCausalLM`, in place. Raises UnknownStructure saying what was found instead."""
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind != "olmoe":
        raise UnknownStructure(
            f"This app computes OLMoE (model_type 'olmoe'); found {type(model).__name__} with model_type {kind!r}. "
            "Set OLMOE_MODEL to an OLMoE checkpoint, for example allenai/OLMoE-1B-7B-0125-Instruct.")
    try:
        return _read(model, config)
    except AttributeError as error:
        raise UnknownStructure(
            f"This OLMoE is not built as expected: {error}. transformers may have changed its modules; "
            "install the version pinned in requirements.txt.") from error


def _read(model: Any, config: Any) -> OlmoeWeights:
    body = model.model
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope_type = body.rotary_emb.rope_type
    if rope_type not in ("default", "linear", "llama3", "yarn"):
        raise UnknownStructure(f"Rotary embedding of type {rope_type!r} depends on the text's length; "
                               "only types with fixed frequencies are computed here.")
    weights = OlmoeWeights(
        embedding=body.embed_tokens.weight,
        layers=tuple(_read_layer(layer) for layer in body.layers),
        final_norm=body.norm.weight,
        lm_head=model.lm_head.weight,
        rotary=body.rotary_emb,
        activation=ACT2FN[config.hidden_act],
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        num_experts=config.num_experts,
        default_k=config.num_experts_per_tok,
        norm_topk_prob=bool(config.norm_topk_prob),
        clip_qkv=config.clip_qkv,
        norm_eps=config.rms_norm_eps,
    )
    _check_shapes(weights, config)
    return weights


def _read_layer(layer: Any) -> LayerWeights:
    attention, moe = layer.self_attn, layer.mlp
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight,
        q_proj=attention.q_proj.weight, k_proj=attention.k_proj.weight,
        v_proj=attention.v_proj.weight, o_proj=attention.o_proj.weight,
        q_bias=attention.q_proj.bias, k_bias=attention.k_proj.bias,
        v_bias=attention.v_proj.bias, o_bias=attention.o_proj.bias,
        q_norm=attention.q_norm.weight, k_norm=attention.k_norm.weight,
        experts_norm=layer.post_attention_layernorm.weight,
        router=moe.gate.weight,
        gate_up_proj=moe.experts.gate_up_proj, down_proj=moe.experts.down_proj,
    )


def _check_shapes(weights: OlmoeWeights, config: Any) -> None:
    hidden, experts, inner = config.hidden_size, config.num_experts, config.intermediate_size
    queries, keys = weights.num_heads * weights.head_dim, weights.num_kv_heads * weights.head_dim
    expected = {
        "q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden), "o_proj": (hidden, queries),
        "q_norm": (queries,), "k_norm": (keys,), "router": (experts, hidden),
        "gate_up_proj": (experts, 2 * inner, hidden), "down_proj": (experts, hidden, inner),
    }
    for i, layer in enumerate(weights.layers):
        for name, shape in expected.items():
            found = tuple(getattr(layer, name).shape)
            if found != shape:
                raise UnknownStructure(f"Layer {i}: {name} has shape {found}; expected {shape}.")
    if len(weights.layers) != config.num_hidden_layers:
        raise UnknownStructure(f"Found {len(weights.layers)} layers; the config says {config.num_hidden_layers}.")
