"""What the commands share: the settings they were asked for, and the model behind them."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..engine.engine import Engine
from ..library import Olmoe
from ..model.loader import LoadedModel, load
from ..request import whole_number
from ..settings import Settings, from_environment


def settings_of(args: argparse.Namespace) -> Settings:
    """The environment's settings, with the model and dtype that were typed."""
    settings = from_environment()
    if args.model:
        settings = replace(settings, model=args.model)
    if args.dtype:
        settings = replace(settings, dtype=args.dtype)
    return settings


def load_engine(settings: Settings) -> tuple[LoadedModel, Engine]:
    """The model, on which k is proved to act, and its engine."""
    return engine_for(load(settings), settings)


def engine_for(loaded: LoadedModel, settings: Settings) -> tuple[LoadedModel, Engine]:
    olmoe = Olmoe(loaded, settings)
    return olmoe.loaded, olmoe.engine


def ks_of(typed: str, num_experts: int) -> list[int]:
    """"4,8,16" -> [4, 8, 16]. Raises ValueError for what is no k of the model."""
    return [whole_number(k.strip(), "Active experts (k)", 1, num_experts) for k in typed.split(",")]
