"""Several runs' weights -> one model between them, and as sure of itself as it should be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .export import read_weights
from .model import ModelConfig


def average(parts: Sequence[tuple[Path, float]], logit_scale: float, config: ModelConfig) -> dict[str, Tensor]:
    """The weighted mean of the training weights in folders of shards, with every logit times `logit_scale`.

    parts: (folder, share); the shares sum to 1. The folders must hold one run and its continuations: between models
    that share most of their training the mean is at least as good as either (Wortsman et al. 2022, arXiv 2203.05482).
    A model that has read its texts many times is too sure on others; one scale below 1 mends that without changing
    which token is likeliest (temperature scaling, Guo et al. 2017, arXiv 1706.04599). It is put into the final norm,
    behind which only the head stands. Raises ValueError if the shares do not sum to 1.
    """
    if abs(sum(share for _, share in parts) - 1) > 1e-9:
        raise ValueError(f"The shares must sum to 1; they sum to {sum(share for _, share in parts):g}.")
    mean: dict[str, Tensor] = {}
    for folder, share in parts:
        for name, weight in read_weights(folder, config).items():
            mean[name] = mean[name] + share * weight if name in mean else share * weight
    mean["final_norm"] = mean["final_norm"] * logit_scale
    return mean


def record(run: Path, parts: Sequence[tuple[Path, float]], logit_scale: float, chosen_on: int) -> None:
    """run/average.json, for the model card. chosen_on: held-out documents per domain that shares and scale were
    chosen on."""
    shares = [share for _, share in parts]
    written = {"shares": shares, "logit_scale": logit_scale, "chosen_on": chosen_on}
    (run / "average.json").write_text(json.dumps(written) + "\n")
