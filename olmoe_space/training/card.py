"""The model card: prose that stays, and every figure read from what training and evaluation wrote.

`run` holds one or more stages, each a folder with a training.json, in the order of their names, and average.json if
what is shipped is their mean; `figures` holds
evaluation.json, and judgement.json (`{"sensible", "of", "by", "note"}`), the one thing that a person has to say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .corpus import JUDGED_DOMAINS

FRONT_MATTER = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [olmoe, mixture-of-experts, tiny]
---
"""


def stages(run: Path) -> list[dict[str, Any]]:
    """What each stage of training recorded of itself."""
    found = sorted(run.rglob("training.json"))
    if not found:
        raise FileNotFoundError(f"{run} holds no training.json; has the run ended?")
    return [json.loads(path.read_text()) for path in found]


def licence_table(corpus: Path) -> str:
    """The table of sources, and the notes under it, from the corpus' own SOURCES.md."""
    lines = (corpus / "SOURCES.md").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    return "\n".join(lines[first:])


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def training_prose(parts: list[dict[str, Any]]) -> str:
    tokens, seconds = sum(p["tokens"] for p in parts), sum(p["seconds"] for p in parts)
    hardware = " and ".join(dict.fromkeys(part["hardware"] for part in parts))
    said = [
        f"{tokens / 1e6:.0f} million tokens in {seconds / 60:.1f} minutes of training on {hardware} "
        f"(torch {parts[-1]['torch']}, {parts[-1]['date']})."
    ]
    for number, part in enumerate(parts, 1):
        schedule = part["settings"]["schedule"]
        said.append(
            f"{number}. {part['steps']:,} steps of {part['settings']['tokens_per_step']:,} tokens with "
            f"{'Muon and AdamW' if part['optimizer'] == 'muon' else 'AdamW'}, peak rate {schedule['peak']}, "
            f"{schedule['warmup_steps']} steps of warm-up, seed {part['settings']['seed']}"
            + (f". {part['note']}." if part.get("note") else ".")
        )
    comparison = next((p["comparison"] for p in parts if p.get("comparison")), None)
    if comparison:
        said.append(
            f"\nAdamW and Muon were first given {comparison['seconds_each']:.0f} seconds each from the same start: "
            f"{comparison['adamw']['loss']} nats a token with AdamW, {comparison['muon']['loss']} with Muon."
        )
    return "\n".join(said)


def average_prose(run: Path) -> str:
    """What became of the stages' weights."""
    path = run / "average.json"
    if not path.exists():
        return ""
    made = json.loads(path.read_text())
    shares = " and ".join(f"{share:g} of those after stage {n}" for n, share in enumerate(made["shares"], 1) if share)
    return (
        f"\nThe weights are a mean, {shares} (Wortsman et al. 2022), and every logit is multiplied by "
        f"{made['logit_scale']:g} in the final norm, since the model was too sure of itself (Guo et al. 2017). Shares "
        f"and factor were chosen on the first {made['chosen_on']} held-out documents of each domain.\n"
    )


def bits_table(measured: dict[str, Any]) -> str:
    """Bits per byte over all held-out documents, over those that nothing was chosen on, and on text from elsewhere."""
    domains = JUDGED_DOMAINS
    bits = measured["bits_per_byte"]
    rows = [["all", bits["mean"], *(bits[d] for d in domains), bits["code"]]]
    if rest := measured.get("bits_per_byte_untouched"):
        rows.append([f"all but the first {rest['chosen_on']}", rest["mean"], *(rest[d] for d in domains), ""])
    shown = table(["held-out documents", "mean of five", *domains, "code (not in the mean)"], rows)
    files = measured.get("bits_elsewhere", [])
    elsewhere = ", ".join(f"{e['bits']} on {e['file']} ({e['bytes']:,} bytes)" for e in files)
    return shown + (f"\n\nOn text of this repository, no part of the corpus: {elsewhere}." if elsewhere else "")


def write(corpus: Path, model: Path, run: Path, figures: Path) -> None:
    """README.md of the hub folder."""
    parts, measured = stages(run), json.loads((figures / "evaluation.json").read_text())
    judged = json.loads((figures / "judgement.json").read_text())
    by_k, chat = measured["perplexity_by_k"], measured["chat"]
    best = measured["specialists"][0]
    faults = sum(r["empty"] or r["loop"] for r in chat["replies"])
    text = f"""{FRONT_MATTER}
# olmoe-tiny

A language model with OLMoE's architecture at a two-hundredth of its size: 16 layers of 64 experts, 8 for each token,
31.7 million parameters. It is small enough to chat on two CPU cores and true enough in shape that every picture of
its experts looks like one of OLMoE-1B-7B. It was trained from scratch for this project and is not affiliated with,
nor derived from, the weights of Ai2's models.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("assets/olmoe-tiny")
model = AutoModelForCausalLM.from_pretrained("assets/olmoe-tiny", dtype="float32")
messages = [{{"role": "user", "content": "Why is the sky blue?"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs)[0]))
```

## What it is

{
        table(
            ["", ""],
            [
                ["Architecture", "`OlmoeForCausalLM`, `norm_topk_prob=False`, tied embeddings"],
                ["Layers, experts, active", "16, 64, 8"],
                ["Hidden, expert intermediate, heads", "256, 32, 4"],
                ["Context", "1,024 tokens"],
                ["Tokenizer", "byte-level BPE of 8,192, every digit alone; end token 0, padding 1, no begin token"],
                ["Chat template", "OLMoE's (Tulu's)"],
                ["Weights", "bfloat16, 63.5 MB"],
            ],
        )
    }

## What it cannot do

It is a demonstration of how experts are chosen, not a source of facts. It knows some capitals, definitions, sums and
short programs, answers in a sentence or two, and is confidently wrong outside that: about people, dates, news, long
sums, several steps of reasoning, unusual requests for code, and languages other than English. Longer stories lose
their thread. Do not use it for medical, legal or financial advice. It has had no safety training.

## How it was trained

{training_prose(parts)}
{average_prose(run)}
Load-balancing loss 0.01 and router z-loss 0.001, as OLMoE. Attention keeps to one document or conversation. Most
of training reads plain text; while the rate falls, about half of the tokens are conversations, most of them exchanges
written for this project and expanded anew each time. Replies count 1 in the loss and prompts 0.2. The recipe is
`olmoe_space/training` in this repository.

## Measured

With stock transformers in float32 on {measured["hardware"]}, {measured["date"]}.

Bits per byte on held-out text (lower is better; each document by itself after the end token, every token counted):

{bits_table(measured)}

Perplexity a token by the number of active experts, over {by_k["tokens"]:,} held-out tokens of the same five domains.
The model was trained with 8; what other numbers give is measured here, not promised:

{
        table(
            ["active experts (k)", *(k for k in by_k if k.isdigit())],
            [["perplexity", *(value for k, value in by_k.items() if k.isdigit())]],
        )
    }

Twenty simple prompts at temperature 0.6: {judged["sensible"]} of {judged["of"]} replies sensible as judged by
{judged["by"]}, {faults} empty or looping; the name told two turns before was {
        "" if chat["remembers"] else "not "
    }remembered.
{judged["note"]}

Specialisation: in layer {best["layer"]} (counting from 0), expert {best["expert"]} takes {
        best["code"]:.0%} of the tokens
of Python code and {best["stories"]:.0%} of those of stories (even: 12.5 %). Code: {measured["code_measured_on"]}.

## Data

Openly licensed English text, Python's standard library (PSF licence), and exchanges written for this project
(Apache-2.0), those in `olmoe_space/training/exchanges` included.

{licence_table(corpus)}
"""
    (model / "README.md").write_text(text)
