"""Training weights -> a folder in the hub's format, as OLMoE's: a tensor per expert and matrix, bfloat16 shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .model import ModelConfig
from .tokenizer import EOS_ID, PAD_ID

SHARD_BYTES = 9_150_000  # of tensors; with its header a shard stays under 10 MB
ATTENTION_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")
NORM_NAMES = ("input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm")


def hub_tensors(weights: dict[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The hub's names and tensors, in the order of the layers. The head is tied to the embedding and not written."""
    yield "model.embed_tokens.weight", weights["embedding"]
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        for name, norm in zip(NORM_NAMES, weights["norms"][layer], strict=True):
            yield f"{prefix}{name}.weight", norm
        for name, matrix in zip(ATTENTION_NAMES, weights["attention"][layer], strict=True):
            yield f"{prefix}self_attn.{name}.weight", matrix
        yield f"{prefix}mlp.gate.weight", weights["router"][layer]
        for expert in range(config.experts):
            gate, up = weights["gate_up"][layer, expert]  # [I, D] each
            yield f"{prefix}mlp.experts.{expert}.gate_proj.weight", gate
            yield f"{prefix}mlp.experts.{expert}.up_proj.weight", up
            yield f"{prefix}mlp.experts.{expert}.down_proj.weight", weights["down"][layer, expert].T  # [D, I]
    yield "model.norm.weight", weights["final_norm"]


def write_weights(
    weights: dict[str, Tensor], config: ModelConfig, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """model-0000i-of-0000n.safetensors and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in hub_tensors(weights, config):
        tensor = tensor.to(dtype).contiguous().clone()
        if size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    for old in folder.glob("model-*.safetensors"):
        old.unlink()
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_config(config: ModelConfig, folder: Path, dtype: str = "bfloat16") -> None:
    """config.json and generation_config.json."""
    body = {
        "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "dtype": dtype,
        "vocab_size": config.vocab, "hidden_size": config.hidden, "intermediate_size": config.expert_intermediate,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "num_key_value_heads": config.heads,
        "num_experts": config.experts, "num_experts_per_tok": config.experts_per_token, "norm_topk_prob": False,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None,
        "max_position_embeddings": config.max_positions, "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "router_aux_loss_coef": 0.01, "output_router_logits": False, "initializer_range": 0.02,
        "tie_word_embeddings": True, "use_cache": True,
        "bos_token_id": None, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID,
    }  # fmt: skip
    generation = {
        "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "do_sample": True, "temperature": 0.6, "top_p": 0.95,
        "max_new_tokens": 256,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(body, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def read_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The training weights, float32, of a folder that `write_weights` wrote."""
    from safetensors.torch import load_file

    hub: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        hub |= {name: tensor.float() for name, tensor in load_file(shard).items()}
    if not hub:
        raise FileNotFoundError(f"{folder} holds no shards")

    def stacked(name: str) -> Tensor:
        """`name` of every layer: [L, ...]."""
        return torch.stack([hub[f"model.layers.{layer}.{name}.weight"] for layer in range(config.layers)])

    def experts(name: str) -> Tensor:
        """`name` of every expert: [L, E, ...]."""
        return torch.stack([stacked(f"mlp.experts.{expert}.{name}") for expert in range(config.experts)], 1)

    return {
        "embedding": hub["model.embed_tokens.weight"],
        "attention": torch.stack([stacked(f"self_attn.{name}") for name in ATTENTION_NAMES], 1),
        "gate_up": torch.stack((experts("gate_proj"), experts("up_proj")), 2),
        "down": experts("down_proj").mT.contiguous(),
        "router": stacked("mlp.gate"),
        "norms": torch.stack([stacked(name) for name in NORM_NAMES], 1),
        "final_norm": hub["model.norm.weight"],
    }


def copy_weights(run: Path, folder: Path) -> None:
    """The newest shards of a training run into the hub folder, in place of what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model-*.safetensors"):
        old.unlink()
    shards = sorted((run / "weights").glob("model-*.safetensors"))
    if not shards:
        raise FileNotFoundError(f"{run / 'weights'} holds no shards; has the run saved yet?")
    for shard in shards:
        shutil.copyfile(shard, folder / shard.name)
    rebuild_index(folder)


def rebuild_index(folder: Path) -> None:
    """The index again from the shards themselves."""
    from safetensors import safe_open

    where, total = {}, 0
    for shard in sorted(folder.glob("model-*.safetensors")):
        with safe_open(shard, "pt") as tensors:
            for name in tensors.keys():
                where[name] = shard.name
                total += tensors.get_tensor(name).nbytes
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
