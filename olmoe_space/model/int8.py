"""8-bit weights: each output channel of a matrix as int8 and one scale, so that OLMoE-1B-7B fits a card of 12 GB.

Symmetric absmax rounding (Dettmers et al. 2022, arXiv 2208.07339, "row-wise"): scale = max |row| / 127,
values = round(row / scale), so no weight moves by more than half a scale. Experts, attention and head are kept so;
the embedding (a look-up), the norms and the routers (which decide, and weigh nothing) stay as they are.

The modules compute what transformers' own would with the dequantised weights, so that the quantised model can still
be run by transformers and ours be held against it. Weights are dequantised where they are used and forgotten again.
Shapes: [..., N, M]: N output channels of M inputs, and what stands before them: experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = ("gate_up_proj", "down_proj")
LARGEST = 127  # -128 is left out: the range is then the same on both sides of 0


@dataclass(frozen=True)
class Int8Weight:
    """values int8 [..., N, M] times scale float32 [..., N, 1]."""

    values: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def __getitem__(self, expert: int) -> Int8Weight:
        return Int8Weight(self.values[expert], self.scale[expert])

    def index_select(self, dim: int, index: Tensor) -> Int8Weight:
        return Int8Weight(self.values.index_select(dim, index), self.scale.index_select(dim, index))

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """[..., N, M], each product rounded to `dtype` once."""
        return self.values.to(dtype).mul_(self.scale)


Weight = Tensor | Int8Weight


def quantised(weight: Tensor) -> Int8Weight:
    """[..., N, M] of any float dtype -> the nearest int8 and scales. A row of zeros stays one."""
    if weight.dim() > 2:  # expert by expert: in float32 all of a layer would take the device over what it needs later
        each = [quantised(matrix) for matrix in weight]
        return Int8Weight(torch.stack([e.values for e in each]), torch.stack([e.scale for e in each]))
    wide = weight.detach().float()
    scale = wide.abs().amax(-1, keepdim=True) / LARGEST
    return Int8Weight((wide / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.int8), scale)


def plain(weight: Weight, dtype: torch.dtype) -> Tensor:
    """The matrix to multiply with: itself, or dequantised for this use."""
    return weight.dequantised(dtype) if isinstance(weight, Int8Weight) else weight


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x [..., M] -> [..., N], as torch.nn.functional.linear."""
    return F.linear(x, plain(weight, x.dtype), bias)


class Int8Linear(nn.Module):
    """nn.Linear with 8-bit weights."""

    scale: Tensor

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        packed = quantised(source.weight)
        self.values = nn.Parameter(packed.values, requires_grad=False)
        self.register_buffer("scale", packed.scale)
        self.bias = source.bias

    @property
    def weight(self) -> Int8Weight:
        return Int8Weight(self.values, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Int8Experts(nn.Module):
    """transformers' OlmoeExperts with 8-bit weights: expert by expert, those that no token chose left out."""

    gate_up_proj_values: Tensor
    gate_up_proj_scale: Tensor
    down_proj_values: Tensor
    down_proj_scale: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = source.act_fn
        for name in EXPERTS:
            packed = quantised(getattr(source, name))
            self.register_parameter(f"{name}_values", nn.Parameter(packed.values, requires_grad=False))
            self.register_buffer(f"{name}_scale", packed.scale)

    @property
    def gate_up_proj(self) -> Int8Weight:
        return Int8Weight(self.gate_up_proj_values, self.gate_up_proj_scale)

    @property
    def down_proj(self) -> Int8Weight:
        return Int8Weight(self.down_proj_values, self.down_proj_scale)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[N, H], [N, K], [N, K] -> [N, H]"""
        out = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            token, rank = (top_k_index == expert).nonzero(as_tuple=True)
            gate, up = linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, -1)
            mixed = linear(self.activation(gate) * up, self.down_proj[expert]) * top_k_weights[token, rank, None]
            out.index_add_(0, token, mixed.to(out.dtype))
        return out


@torch.no_grad()
def to_int8(model: Any, device: torch.device | str) -> Any:
    """Quantises an `OlmoeForCausalLM` in place and brings it to `device`, a layer at a time, so that the device never
    holds more than one layer in 16 bits. A tied head becomes a matrix of its own."""
    for layer in model.model.layers:
        layer_to_int8(layer.to(device))
    head_to_int8(model)
    return model.to(device)


def head_to_int8(model: Any) -> None:
    model.lm_head = Int8Linear(model.lm_head)


def layer_to_int8(layer: Any) -> None:
    for name in ATTENTION:
        setattr(layer.self_attn, name, Int8Linear(getattr(layer.self_attn, name)))
    layer.mlp.experts = Int8Experts(layer.mlp.experts)
