"""The tokenizer: byte-level BPE of 8,192, every digit alone, OLMoE's chat template (Tulu's).

Every byte is in the alphabet and nothing is normalised, so every Unicode string survives the round trip. The role
tags are vocabulary entries but not special tokens: they are ordinary text to the template, as in OLMoE.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import corpus as corpus_files

VOCAB_SIZE = 8192
EOS, PAD = "<|endoftext|>", "<|padding|>"
EOS_ID, PAD_ID = 0, 1
ROLE_TAGS = ("<|system|>", "<|user|>", "<|assistant|>")
MAX_POSITIONS = 1024

# GPT-4's splitting, with digits one by one (so that a sum sees columns, not chunks).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    "{% endfor %}"
)

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_bos_token": False,
    "add_eos_token": False,
    "add_prefix_space": False,
    "bos_token": None,
    "eos_token": EOS,
    "pad_token": PAD,
    "unk_token": None,
    "clean_up_tokenization_spaces": False,
    "model_max_length": MAX_POSITIONS,
    "model_input_names": ["input_ids", "attention_mask"],
    "chat_template": CHAT_TEMPLATE,
}


def train(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A tokenizer learned from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(ROLE_TAGS),
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in ROLE_TAGS])
    return tokenizer


def sample(corpus: Path, megabytes: float, seed: int) -> Iterator[str]:
    """A mixture to learn merges from, about `megabytes` of UTF-8 text: chat counts for as much as it is used."""
    shares = {"chat": 0.3, "code": 0.14, "science": 0.16, "stories": 0.16, "web": 0.1, "math": 0.06, "dialogue": 0.08}
    rng = random.Random(seed)
    for name, share in shares.items():
        if name == "chat":
            texts = ["\n".join(m["content"] for m in messages) for _, messages in corpus_files.chats(corpus)]
            for lines in corpus_files.exchange_files(corpus).values():
                for line in lines:
                    said = [text for _, text in line["turns"]] if "turns" in line else line["q"] + line["a"]
                    texts += ["\n".join(said)] * 3
        else:
            texts = list(corpus_files.pretrain_texts(corpus, name))
            if name == "code":
                texts += list(corpus_files.source_code())
        rng.shuffle(texts)
        left = share * megabytes * 1e6
        for text in texts:
            if left < 0:
                break
            left -= len(text.encode())
            yield text


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, as the hub's tools read them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a hub folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
