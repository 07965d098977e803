"""A hub id or folder -> model and tokenizer on the best device, or a reason in words.

Real weights come only as safetensors, and no code comes with them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..model_info import ModelInfo
from ..settings import EMBEDDED_MODEL, HUB_MODEL, Settings
from .hub import trouble_with
from .int8 import to_int8
from .memory import LARGE_CHUNK, NotEnoughMemory, Room, chunk_for, free_bytes, parameter_count, room_for
from .random_weights import random_model, shape_of
from .structure import weights_of

log = logging.getLogger(__name__)
LARGE = 3_000_000_000  # parameters; above it float32 on a CPU (four bytes each) outgrows common machines


class ModelUnavailable(RuntimeError):
    """The model that was asked for cannot be served; the message says why and what to do."""


@dataclass(frozen=True)
class LoadedModel:
    model: Any
    tokenizer: Any
    info: ModelInfo
    room: Room


def load(settings: Settings) -> LoadedModel:
    """The model that `settings` ask for.

    Unasked, a CUDA device gets the hub's OLMoE and a CPU the embedded olmoe-tiny; if the hub's cannot be
    loaded, olmoe-tiny is served with the reason as its notice. Raises ModelUnavailable if a model was
    asked for by name and cannot be loaded.
    """
    device = "cuda" if settings.on_zero_gpu or has_cuda() else "cpu"
    if settings.model is not None:
        return _load(settings.model, device, settings, notice="")
    if device == "cpu":
        tiny = _load(str(EMBEDDED_MODEL), device, settings, notice=(
            f"No GPU was found, so the embedded olmoe-tiny answers: 16 layers of 64 experts like OLMoE, but small "
            f"and simple. On a GPU this app serves {HUB_MODEL}; OLMOE_MODEL chooses any OLMoE."))
        return replace(tiny, info=replace(tiny.info, stands_in_for=HUB_MODEL))
    try:
        return _load(HUB_MODEL, device, settings, notice="")
    except ModelUnavailable as error:
        log.warning("%s Serving olmoe-tiny instead.", error)
        return _load(str(EMBEDDED_MODEL), device, settings, notice=f"olmoe-tiny is served instead. {error}")


def has_cuda() -> bool:
    """Whether models are loaded to a GPU here."""
    return torch.cuda.is_available()


def load_random(shape: str, settings: Settings) -> LoadedModel:
    """Random weights of the shape of a hub id or folder, with olmoe-tiny's tokenizer: for measurements of speed.

    Raises ValueError for a shape that is not known, or that does not fit the memory.
    """
    device = "cuda" if has_cuda() else "cpu"
    config = shape_of(shape)
    dtype = _dtype(settings, device, config)
    room = _room(config, dtype, device, settings)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL, trust_remote_code=False)
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"{shape} has {config.vocab_size:,} tokens, fewer than the {len(tokenizer):,} of the texts "
                         "that are measured. Take the shape of a larger model.")
    model = random_model(config, dtype, device, settings.weights == "int8")
    return LoadedModel(model, tokenizer,
                       _info(f"random weights of {shape}", model, config, tokenizer, settings, room, ""), room)


def _load(name: str, device: str, settings: Settings, notice: str) -> LoadedModel:
    trouble = ""
    try:
        trouble = trouble_with(name)
        if trouble:
            log.warning("%s %s Looking for it among what was downloaded before.", name, trouble)
        here: dict[str, Any] = {"trust_remote_code": False, "local_files_only": bool(trouble)}
        config = AutoConfig.from_pretrained(name, **here)
        if config.model_type != "olmoe":
            raise ModelUnavailable(f"{name} is a {config.model_type!r} model; this app computes OLMoE. Set OLMOE_MODEL "
                                   f"to an OLMoE checkpoint, for example {HUB_MODEL}.")
        dtype = _dtype(settings, device, config)
        room = _room(config, dtype, device, settings)
        tokenizer = AutoTokenizer.from_pretrained(name, **here)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True, **here)
        model = model.eval().requires_grad_(False)
        if settings.weights == "int8":  # on ZeroGPU a device that is not there yet cannot round
            to_int8(model, "cpu" if settings.on_zero_gpu else device)
        model = model.to(device)
    except NotEnoughMemory as error:
        raise ModelUnavailable(f"{name} does not fit. {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if isinstance(error, ModelUnavailable):
            raise
        reason = trouble or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelUnavailable(f"{name} could not be loaded: {reason} Check the name, the network and the memory, "
                               "or set OLMOE_MODEL to a folder with the checkpoint.") from error
    weights_of(model)
    return LoadedModel(model, tokenizer, _info(name, model, config, tokenizer, settings, room, notice), room)


def _room(config: Any, dtype: torch.dtype, device: str, settings: Settings) -> Room:
    """On ZeroGPU the device is not there yet, and larger than any OLMoE."""
    if settings.on_zero_gpu:
        return Room(settings.max_slots, config.max_position_embeddings, LARGE_CHUNK)
    return room_for(config, dtype, settings.weights == "int8", free_bytes(device), settings.max_slots,
                    chunk_for(device))


def _dtype(settings: Settings, device: str, config: Any) -> torch.dtype:
    """What was asked for, else what the device does best: bfloat16 on GPUs that have it, float16 on older ones,
    float32 on a CPU unless the model is too large for that."""
    if settings.dtype is not None:
        return getattr(torch, settings.dtype)
    if device == "cuda":
        native = settings.on_zero_gpu or torch.cuda.get_device_capability()[0] >= 8
        return torch.bfloat16 if native else torch.float16
    experts = 3 * config.hidden_size * config.intermediate_size * config.num_experts * config.num_hidden_layers
    return torch.bfloat16 if experts > LARGE else torch.float32


def _info(name: str, model: Any, config: Any, tokenizer: Any, settings: Settings, room: Room,
          notice: str) -> ModelInfo:
    if tokenizer.chat_template is None:
        notice = " ".join(filter(None, [notice, "This is a base model without a chat template: it does not answer "
                                                "messages, it goes on with your text."]))
    if room.slots < settings.max_concurrent_chats or room.context < config.max_position_embeddings:
        replies = "one reply" if room.slots == 1 else f"{room.slots} replies"
        notice = " ".join(filter(None, [notice, f"Memory is short: {replies} at a time, in chats of at most "
                                                f"{room.context:,} tokens."]))
    device, dtype = model.device.type, str(model.dtype).removeprefix("torch.")
    if settings.on_zero_gpu:
        home = "ZeroGPU"
    else:
        home = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return ModelInfo(
        name=Path(name).name if Path(name).is_dir() else name,
        num_layers=config.num_hidden_layers, num_experts=config.num_experts, default_k=config.num_experts_per_tok,
        hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads, vocab_size=config.vocab_size,
        context_length=room.context, norm_topk_prob=bool(config.norm_topk_prob),
        total_params=parameter_count(config), dtype=f"int8 weights, {dtype}" if settings.weights == "int8" else dtype,
        device=home, backend="PyTorch", has_chat_template=tokenizer.chat_template is not None, notice=notice)
