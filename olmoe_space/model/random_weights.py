"""A model of a checkpoint's true shape with random weights: what speed and memory need, without 14 GB from a hub.

It says nothing sensible, but it moves the same bytes. Built layer by layer, directly in its dtype and on its device.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, OlmoeForCausalLM
from transformers.models.olmoe.modeling_olmoe import OlmoeDecoderLayer

from ..settings import HUB_MODEL
from .int8 import head_to_int8, layer_to_int8

SHIPPED = {"allenai/OLMoE-1B-7B-": Path(__file__).parent / "configs" / "OLMoE-1B-7B.json"}  # one shape for all of them
STD = 0.02  # of every matrix, as OLMoE was initialised


def shape_of(name: str = HUB_MODEL) -> Any:
    """The config behind a hub id that we know, or in a folder or file. Raises ValueError naming those we know."""
    for prefix, path in SHIPPED.items():
        if name.startswith(prefix):
            return AutoConfig.from_pretrained(path)
    if Path(name).exists():
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    raise ValueError(f"The shape of {name!r} is not known here. Give a folder with a config.json, or a hub id that "
                     f"begins with {' or '.join(SHIPPED)}.")


@torch.no_grad()
def random_model(config: Any, dtype: torch.dtype, device: str, in_int8: bool = False, seed: int = 0) -> Any:
    """An `OlmoeForCausalLM` of this shape; the same seed gives the same weights on the same kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    without_layers = copy.deepcopy(config)
    without_layers.num_hidden_layers = 0
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = OlmoeForCausalLM(without_layers)
            _fill(model, generator)
            for index in range(config.num_hidden_layers):
                layer = OlmoeDecoderLayer(model.config, index)  # the model's own: it says how to attend
                _fill(layer, generator)
                if in_int8:
                    layer_to_int8(layer)
                model.model.layers.append(layer)
            if in_int8:
                head_to_int8(model)
    finally:
        torch.set_default_dtype(before)
    model.config.num_hidden_layers = config.num_hidden_layers
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model.eval().requires_grad_(False)


def _fill(module: torch.nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=STD, generator=generator)
        else:
            parameter.fill_(1)  # the norms
