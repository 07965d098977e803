"""How each product is cut into programs: measured choices for OLMoE's shape, see README.md beside this file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """rows: outputs a program; columns: inputs a step (0: all at once); warps; per_sm: programs a multiprocessor when
    they take items in turn (0: one program an item); stages: depth of software pipelining."""

    rows: int
    columns: int = 0
    warps: int = 4
    per_sm: int = 0
    stages: int = 1


@dataclass(frozen=True)
class Tiles:
    qkv: Tile
    output: Tile
    gate_up: Tile
    down: Tile
    head: Tile


ONE_ROW = Tiles(qkv=Tile(2, per_sm=8), output=Tile(4), gate_up=Tile(1, per_sm=8), down=Tile(4),
                head=Tile(4, per_sm=4))
MANY_ROWS = Tiles(qkv=Tile(32, 128, stages=4), output=Tile(16, 512, stages=3),
                  gate_up=Tile(64, 128, per_sm=2, stages=3), down=Tile(32, 128, stages=6),
                  head=Tile(64, 128, stages=4))
# 8-bit weights: as many bytes on their way as of 16 bits, so more rows, columns or stages.
ONE_ROW_INT8 = Tiles(qkv=Tile(4, per_sm=6), output=Tile(8, warps=2), gate_up=Tile(4, per_sm=6), down=Tile(4),
                     head=Tile(8, per_sm=4))
MANY_ROWS_INT8 = Tiles(qkv=Tile(32, 256, stages=4), output=Tile(16, 512, stages=3),
                       gate_up=Tile(64, 128, per_sm=2, stages=3), down=Tile(32, 128, stages=8),
                       head=Tile(64, 256, stages=4))
