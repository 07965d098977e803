"""The keys and values of past tokens, one row a request, allocated once at the size it can grow to.

A cache belongs to one batch of requests and dies with it. It is never shared between different k:
keys computed at one k are not those of another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.structure import OlmoeWeights


class KeyValueCache:
    """keys, values: [L, B, G, capacity, D] in the model's dtype; lengths: tokens held, a row."""

    def __init__(self, weights: OlmoeWeights, rows: int, capacity: int) -> None:
        shape = (len(weights.layers), rows, weights.num_kv_heads, capacity, weights.head_dim)
        self.keys = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = [0] * rows

    def write(self, layer: int, rows: list[int], keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values [R, G, N, D] behind what the rows hold; return all so far, [R, G, T, D].

        T reaches to the longest of the rows; shorter ones have unused places at the end. `advance` makes
        the new tokens count, once every layer has written.
        """
        new = keys.shape[2]
        total = max(self.lengths[r] for r in rows) + new
        if len(rows) == 1 or len({self.lengths[r] for r in rows}) == 1 and rows == list(range(rows[0], rows[-1] + 1)):
            start, block = self.lengths[rows[0]], slice(rows[0], rows[-1] + 1)
            self.keys[layer, block, :, start:total] = keys
            self.values[layer, block, :, start:total] = values
            return self.keys[layer, block, :, :total], self.values[layer, block, :, :total]
        for i, row in enumerate(rows):
            start = self.lengths[row]
            self.keys[layer, row, :, start:start + new] = keys[i]
            self.values[layer, row, :, start:start + new] = values[i]
        return self.keys[layer, rows, :, :total], self.values[layer, rows, :, :total]

    def advance(self, rows: list[int], tokens: int) -> None:
        for row in rows:
            self.lengths[row] += tokens
