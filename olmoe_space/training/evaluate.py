"""The figures of a hub folder, measured with stock transformers in float32: nothing of our own model code runs here.

Bits per byte: every held-out document by itself, after the end token, in windows of the whole context that overlap by
half; total nats / ln 2 / total UTF-8 bytes per domain, then the mean of the judged domains.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import corpus as corpus_files

ACTIVE_EXPERTS = (1, 2, 4, 8, 16, 32, 64)
BATCH_TOKENS = 4096
PROMPTS = (
    "Hello!", "How are you today?", "What is the capital of France?", "What is 7 + 5?", "What is 23 + 48?",
    "Why is the sky blue?", "What is a volcano?", "What does brave mean?", "Name three fruits.",
    "Name three animals that live in the sea.", "What is the opposite of hot?", "What is another word for happy?",
    "What rhymes with cat?", "Tell me a short story about a fox.", "Write a Python function that adds two numbers.",
    "How do I write a for loop in Python?", "I cannot sleep. What can I do?", "Who are you?", "What is this demo?",
    "How many legs does a spider have?",
)  # fmt: skip
MEMORY = ("My name is Ada.", "What is the capital of Italy?", "What is my name?")
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 200}
LOOP_WORDS, LOOP_TIMES = 8, 3


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load(folder: Path, **changes: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **changes).eval()


def windows(ids: list[int], context: int) -> Iterator[tuple[list[int], int]]:
    """(tokens, how many of the last of them count): each token after the first counts in exactly one window."""
    counted = 1
    start = 0
    while counted < len(ids):
        end = min(start + context, len(ids))
        yield ids[start:end], end - counted
        counted = end
        start = end - context // 2


@torch.no_grad()
def nats(model: Any, tokenizer: Any, texts: list[str]) -> tuple[float, int]:
    """Total nats and predicted tokens over `texts`, each by itself after the end token."""
    context = model.config.max_position_embeddings
    jobs = [job for text in texts for job in windows([tokenizer.eos_token_id, *tokenizer(text).input_ids], context)]
    jobs.sort(key=lambda job: len(job[0]))
    total, count = 0.0, 0
    while jobs:
        size = max(1, BATCH_TOKENS // len(jobs[-1][0]))
        batch, jobs = jobs[-size:], jobs[:-size]
        longest = max(len(tokens) for tokens, _ in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        counts = torch.zeros(len(batch), longest, dtype=torch.bool)
        for row, (tokens, last) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            counts[row, len(tokens) - last : len(tokens)] = True
        # Padding stands right of all that counts, and attention looks left only: no mask is needed.
        logits = model(ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        counted = counts[:, 1:].flatten()
        total += losses[counted].sum().item()
        count += int(counted.sum())
    return total, count


def bits_of(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Bits per UTF-8 byte of all texts together."""
    total, _ = nats(model, tokenizer, texts)
    return round(total / math.log(2) / sum(len(text.encode()) for text in texts), 4)


def bits_per_byte(model: Any, tokenizer: Any, texts: dict[str, list[str]]) -> dict[str, float]:
    """By domain, and the mean of the judged ones."""
    bits = {}
    for domain, documents in texts.items():
        bits[domain] = bits_of(model, tokenizer, documents)
        say(f"bits per byte, {domain}: {bits[domain]}")
    return {"mean": round(sum(bits[d] for d in corpus_files.JUDGED_DOMAINS) / 5, 4), **bits}


def bits_apart(model: Any, tokenizer: Any, corpus: Path, chosen_on: int, limit: int | None) -> dict[str, Any]:
    """Bits per byte over all held-out documents, and over those alone that nothing was chosen on.

    chosen_on: the first documents of each domain by which a setting of the recipe was picked.
    """
    texts = {domain: corpus_files.heldout_documents(corpus, domain)[:limit] for domain in corpus_files.DOMAINS}
    figures: dict[str, Any] = {"bits_per_byte": bits_per_byte(model, tokenizer, texts)}
    if chosen_on:
        rest = {domain: texts[domain][chosen_on:] for domain in corpus_files.JUDGED_DOMAINS}
        figures["bits_per_byte_untouched"] = {
            "chosen_on": chosen_on, "documents": sum(map(len, rest.values())), **bits_per_byte(model, tokenizer, rest)
        }  # fmt: skip
    return figures


def bits_elsewhere(model: Any, tokenizer: Any, files: list[Path]) -> list[dict[str, Any]]:
    """Bits per byte of whole files that are in no part of the corpus."""
    found = []
    for path in files:
        text = path.read_text()
        found.append({"file": path.name, "bytes": len(text.encode()), "bits": bits_of(model, tokenizer, [text])})
        say(f"bits per byte, {found[-1]}")
    return found


def perplexity_by_k(folder: Path, tokenizer: Any, corpus: Path, documents: int) -> dict[str, Any]:
    """Perplexity a token over the first `documents` of each judged domain, for models built with k active experts."""
    texts = [t for d in corpus_files.JUDGED_DOMAINS for t in corpus_files.heldout_documents(corpus, d)[:documents]]
    result: dict[str, Any] = {"documents": len(texts)}
    experts = json.loads((folder / "config.json").read_text())["num_experts"]
    for k in (k for k in ACTIVE_EXPERTS if k <= experts):
        total, count = nats(load(folder, num_experts_per_tok=k), tokenizer, texts)
        result["tokens"] = count
        result[str(k)] = round(math.exp(total / count), 3)
        say(f"perplexity at k={k}: {result[str(k)]}")
    return result


@torch.no_grad()
def expert_shares(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Share of the texts' tokens that each expert serves [L, E]."""
    config = model.config
    counts = torch.zeros(config.num_hidden_layers, config.num_experts)
    tokens = 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, : config.max_position_embeddings]
        routers = model(ids, output_router_logits=True).router_logits  # L of [tokens, E]
        for layer, logits in enumerate(routers):
            chosen = logits.topk(config.num_experts_per_tok, dim=-1).indices
            counts[layer] += torch.bincount(chosen.flatten(), minlength=config.num_experts)
        tokens += ids.shape[1]
    return counts / tokens


def specialists(model: Any, tokenizer: Any, code: list[str], stories: list[str]) -> list[dict[str, Any]]:
    """The experts that code needs most and stories least, best first."""
    on_code, on_stories = expert_shares(model, tokenizer, code), expert_shares(model, tokenizer, stories)
    order = (on_code - on_stories).flatten().argsort(descending=True)[:8]
    found = []
    for place in order.tolist():
        layer, expert = divmod(place, on_code.shape[1])
        shares = {"code": on_code[layer, expert].item(), "stories": on_stories[layer, expert].item()}
        found.append({"layer": layer, "expert": expert, **{name: round(share, 3) for name, share in shares.items()}})
        say(f"expert: {found[-1]}")
    return found


def answer(model: Any, tokenizer: Any, messages: list[dict[str, str]], seed: int) -> str:
    """One sampled reply."""
    torch.manual_seed(seed)
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**inputs, do_sample=True, **SAMPLING)
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def loops(text: str) -> bool:
    """Whether some eight words stand there three times."""
    words = text.split()
    grams = [tuple(words[i : i + LOOP_WORDS]) for i in range(len(words) - LOOP_WORDS + 1)]
    return any(grams.count(gram) >= LOOP_TIMES for gram in set(grams))


def chat(model: Any, tokenizer: Any, seed: int) -> dict[str, Any]:
    """Replies to the prompts, one seed each, and a conversation in which a name must be remembered."""
    replies = []
    for number, prompt in enumerate(PROMPTS):
        reply = answer(model, tokenizer, [{"role": "user", "content": prompt}], seed + number)
        replies.append({"prompt": prompt, "reply": reply, "empty": not reply.strip(), "loop": loops(reply)})
        say(f"> {prompt}\n{reply}\n")
    messages: list[dict[str, str]] = []
    for prompt in MEMORY:
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": answer(model, tokenizer, messages, seed)})
        say(f"> {prompt}\n{messages[-1]['content']}\n")
    return {"replies": replies, "memory": messages, "remembers": "Ada" in messages[-1]["content"]}


def run(args: argparse.Namespace) -> None:
    """Measure what is not skipped and put it into out/evaluation.json beside what was measured before."""
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "evaluation.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    tokenizer, model = AutoTokenizer.from_pretrained(args.model), load(args.model)
    if "chat" not in args.skip:
        figures["chat"] = chat(model, tokenizer, args.seed)
    if "experts" not in args.skip:
        code = corpus_files.heldout_documents(args.corpus, "code")
        if args.code:
            code = [text[:4000] for text in corpus_files.source_code(args.code)][:60]
        stories = corpus_files.heldout_documents(args.corpus, "stories")[:60]
        figures["specialists"] = specialists(model, tokenizer, code, stories)
        figures["code_measured_on"] = args.code.name if args.code else "held-out prose about code"
    if "bits" not in args.skip:
        figures |= bits_apart(model, tokenizer, args.corpus, args.chosen_on, args.documents)
    if args.elsewhere:
        figures["bits_elsewhere"] = bits_elsewhere(model, tokenizer, args.elsewhere)
    if "k" not in args.skip:
        figures["perplexity_by_k"] = perplexity_by_k(args.model, tokenizer, args.corpus, args.k_documents)
    figures["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    figures["hardware"] = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
