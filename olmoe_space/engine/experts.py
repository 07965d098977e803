"""sum over a token's experts of weight x SwiGLU(token): three ways to the same sum, chosen by what they cost.

Each expert is down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202).
Shapes: N tokens, K experts a token, E experts, H hidden, I expert intermediate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.int8 import Weight, plain
from ..model.structure import LayerWeights, OlmoeWeights

# Copying the chosen experts' weights together costs more than reading all of them once from about this
# share of the experts on (two CPU cores, hidden 256 x 32: 0.38 ms at half of 64, 0.51 ms for all).
GATHER_AT_MOST = 0.7
DEQUANTISE_AT_MOST = 0.25  # of a layer's experts at once, of 8-bit weights: all of them would take 0.8 GB


def mix_experts(x: Tensor, weights: Tensor, experts: Tensor, layer: LayerWeights, model: OlmoeWeights) -> Tensor:
    """x [N, H], weights [N, K], experts int64 [N, K] -> [N, H]."""
    share = experts.shape[1] / model.num_experts
    if x.shape[0] > 1 or (model.in_int8 and share > DEQUANTISE_AT_MOST):
        return _by_expert(x, weights, experts, layer, model)
    if share <= GATHER_AT_MOST:
        return _gathered(x, weights, experts, layer, model)
    return _all(x, weights, experts, layer, model)


def _gathered(x: Tensor, weights: Tensor, experts: Tensor, layer: LayerWeights, model: OlmoeWeights) -> Tensor:
    """One token: bring its K experts' weights together, then two products."""
    return weights @ expert_outputs(x, experts[0], layer, model)


def expert_outputs(x: Tensor, chosen: Tensor, layer: LayerWeights, model: OlmoeWeights) -> Tensor:
    """What each of the experts `chosen` int64 [K] makes of one token x [1, H], before any weight: [K, H]."""
    gate_up = plain(layer.gate_up_proj.index_select(0, chosen), x.dtype)  # [K, 2I, H]
    down = plain(layer.down_proj.index_select(0, chosen), x.dtype)  # [K, H, I]
    inner = _swiglu(F.linear(x, gate_up.flatten(0, 1)).view(chosen.shape[0], -1), model)
    return _down(inner, down)


def every_output(x: Tensor, layer: LayerWeights, model: OlmoeWeights) -> Tensor:
    """What every expert makes of every token x [N, H], before any weight: [E, N, H]."""
    gate_up, down = plain(layer.gate_up_proj, x.dtype), plain(layer.down_proj, x.dtype)
    inner = _swiglu(x @ gate_up.transpose(1, 2), model)
    return torch.bmm(inner, down.transpose(1, 2))


def _all(x: Tensor, weights: Tensor, experts: Tensor, layer: LayerWeights, model: OlmoeWeights) -> Tensor:
    """One token and most experts: compute every expert where it lies; those not chosen weigh 0."""
    weight_of = x.new_zeros(1, model.num_experts).scatter_(1, experts, weights)
    gate_up, down = plain(layer.gate_up_proj, x.dtype), plain(layer.down_proj, x.dtype)
    inner = _swiglu(F.linear(x, gate_up.flatten(0, 1)).view(model.num_experts, -1), model)
    return weight_of @ _down(inner, down)


def _by_expert(x: Tensor, weights: Tensor, experts: Tensor, layer: LayerWeights, model: OlmoeWeights) -> Tensor:
    """Many tokens: sort the (token, expert) pairs by expert, one product a group."""
    per_token = experts.shape[1]
    expert_of, order = experts.flatten().to(torch.int16).sort()  # a GPU sorts by so many bits
    token_of = order // per_token
    numbers = torch.arange(model.num_experts, dtype=torch.int16, device=x.device)
    ends = torch.searchsorted(expert_of, numbers, right=True, out_int32=True)
    inner = _swiglu(_grouped(x[token_of], layer.gate_up_proj, ends), model)
    outputs = _grouped(inner, layer.down_proj, ends)
    outputs = outputs * weights.flatten()[order].unsqueeze(1)
    by_token = torch.empty_like(outputs).index_copy_(0, order, outputs)  # then a sum in a fixed order: an index_add_
    return by_token.view(x.shape[0], per_token, -1).sum(1)  # on a GPU adds in a new one each time


def _has_grouped_mm(device: torch.device) -> bool:
    """PyTorch's own grouped product runs on CPUs and from Ampere on; a T4 (7.5) has none."""
    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)


def _grouped(rows: Tensor, matrices: Weight, ends: Tensor) -> Tensor:
    """rows [S, X] in E groups that end at `ends` int32 [E], matrices [E, Y, X] -> [S, Y]"""
    if isinstance(matrices, Tensor) and _has_grouped_mm(rows.device):
        return F.grouped_mm(rows, matrices.transpose(1, 2), offs=ends)
    return grouped_by_loop(rows, matrices, ends)


def grouped_by_loop(rows: Tensor, matrices: Weight, ends: Tensor) -> Tensor:
    """`_grouped` expert by expert; waits for the device once."""
    out = rows.new_empty(rows.shape[0], matrices.shape[1])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(rows[start:end], plain(matrices[expert], rows.dtype).T, out=out[start:end])
        start = end
    return out


def _down(inner: Tensor, down: Tensor) -> Tensor:
    """inner [K, I], down [K, H, I] -> [K, H]. Written row x matrix: as matrix x column it takes four times as long."""
    return torch.bmm(inner.unsqueeze(1), down.transpose(1, 2)).squeeze(1)


def _swiglu(gate_up: Tensor, model: OlmoeWeights) -> Tensor:
    """[..., 2I] -> [..., I]"""
    gate, up = gate_up.chunk(2, -1)
    return model.activation(gate) * up
