"""Small real models and a small real tokenizer, built from configs on the spot: no file, no download.

They are true `OlmoeForCausalLM`s with random weights, scaled so that the routers have opinions and
the number of experts shows in the logits. What a test learns on them does not depend on training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

CONTEXT = 512
PAD, EOS = 256, 257
VOCAB = 264  # more rows than the tokenizer has tokens, as in the real checkpoints

# The template of OLMoE's instruct checkpoints: role tags are plain text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% else %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    "{% endfor %}"
)

# Each differs from the first in one thing that a wrong assumption would trip over.
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped_query": {"num_key_value_heads": 2},
    "wide_heads": {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1},
    "olmoe_experts": {"num_experts": 64, "num_experts_per_tok": 8, "intermediate_size": 16},
    "odd_experts": {"num_experts": 11, "num_experts_per_tok": 3},
    "one_layer": {"num_hidden_layers": 1},
    "clip_qkv": {"clip_qkv": 0.5},
    "norm_topk_prob": {"norm_topk_prob": True},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
}


def random_olmoe(shape: str = "plain", seed: int = 0, **overrides: Any) -> OlmoeForCausalLM:
    """A fresh fp32 model of the named shape on CPU, in eval mode. `overrides` go to OlmoeConfig."""
    config = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_experts": 16, "num_experts_per_tok": 4,
        "max_position_embeddings": CONTEXT, "pad_token_id": PAD, "eos_token_id": EOS,
        "initializer_range": 0.3,  # at the usual 0.02 routers are flat and greedy text repeats one token
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OlmoeForCausalLM(OlmoeConfig(**(config | SHAPES[shape] | overrides))).float().eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:  # all ones when new, which would hide a norm that is left out
                parameter.data.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.data.normal_(std=0.1)
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    return model.requires_grad_(False)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text has tokens and a character may take up to four of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|padding|>", "<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|padding|>", eos_token="<|endoftext|>",
                                   chat_template=CHAT_TEMPLATE, model_max_length=CONTEXT,
                                   clean_up_tokenization_spaces=False)


def save_random_olmoe(folder: Path, shape: str = "plain", **overrides: Any) -> Path:
    """A model folder as the hub has them: weights, config, generation config and tokenizer."""
    random_olmoe(shape, **overrides).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
