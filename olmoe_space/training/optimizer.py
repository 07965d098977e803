"""Muon for the matrices, AdamW for the rest.

Muon as in Moonlight (arXiv 2502.16982): the momentum of each matrix is orthogonalised by a Newton-Schulz iteration
(Keller Jordan's coefficients) and scaled by 0.2 * sqrt(max(rows, columns)), so that its root mean square matches an
AdamW update's and one learning rate serves both. Every expert's matrices are orthogonalised by themselves, in one
batch. Embedding, router and norms stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .model import TrainingModel

MATRICES = ("attention", "gate_up", "down")  # stacks whose last two dimensions are one matrix each
ADAM_BETAS = (0.9, 0.95)
MOMENTUM = 0.95
WEIGHT_DECAY = 0.1


def newton_schulz(stack: Tensor, steps: int = 5) -> Tensor:
    """Roughly the nearest orthogonal matrix to each of `stack` [N, rows, columns], rows <= columns, in bfloat16."""
    x = stack.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # [N, rows, rows]
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon_step(parameter: Tensor, gradient: Tensor, momentum: Tensor, lr: Tensor) -> None:
    """One step, in place, of a stack of matrices [..., rows, columns]."""
    momentum.lerp_(gradient, 1 - MOMENTUM)
    look_ahead = gradient.lerp(momentum, MOMENTUM)
    rows, columns = parameter.shape[-2:]
    update = newton_schulz(look_ahead.flatten(0, -3)).view(parameter.shape)
    parameter.mul_(1 - lr * WEIGHT_DECAY)
    parameter.sub_(update * (lr * 0.2 * max(rows, columns) ** 0.5))


class Muon:
    """State and step for the model's matrices."""

    def __init__(self, parameters: Sequence[Tensor], compiled: bool):
        self.parameters = parameters
        self.momenta = [torch.zeros_like(p) for p in parameters]
        self.update = torch.compile(muon_step, dynamic=False) if compiled else muon_step

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for parameter, momentum in zip(self.parameters, self.momenta, strict=True):
            rate = torch.full((), lr, device=parameter.device)  # a tensor, so that no rate compiles anew
            self.update(parameter, parameter.grad, momentum, rate)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"momenta": self.momenta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(self.momenta, state["momenta"], strict=True):
            mine.copy_(saved)


class Optimizer:
    """`muon` (Muon and AdamW) or `adamw` (AdamW alone, for comparison)."""

    def __init__(self, model: TrainingModel, kind: str, compiled: bool = False):
        named = dict(model.named_parameters())
        matrices = [named[name] for name in MATRICES]
        fused = next(model.parameters()).is_cuda
        rest = [p for name, p in named.items() if name not in MATRICES]
        groups = [{"params": rest, "weight_decay": 0.0}]
        if kind == "adamw":
            groups.append({"params": matrices, "weight_decay": WEIGHT_DECAY})
        self.kind = kind
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=ADAM_BETAS, fused=fused)
        self.muon = Muon(matrices, compiled) if kind == "muon" else None

    def step(self, lr: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        if self.muon:
            self.muon.step(lr)

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "adam": self.adam.state_dict(), "muon": self.muon and self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        if self.muon:
            self.muon.load_state_dict(state["muon"])
