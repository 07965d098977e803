"""Are the engine's greedy tokens those of stock transformers? And where one is not, was it a tie?

Stock reads each prompt with the engine's reply behind it in one forward, so every token of the reply is compared, not
only those before a first difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..events import Token
from ..request import GenerationRequest
from .stock import stock_at

TIE_STEPS = 2
"""Two logits this many steps of their dtype apart are a tie: each implementation rounds either logit by up to half a
step, so what one sees as equal the other may see two steps apart."""


@dataclass(frozen=True)
class Agreement:
    """tokens: compared, of all rows. margin_steps: of each that is not stock's most likely token, how far stock's best
    logit lies above that of our token, in steps of the model's dtype there."""

    batch: int
    k: int
    tokens: int
    margin_steps: tuple[float, ...]

    @property
    def different(self) -> int:
        return len(self.margin_steps)

    @property
    def ties(self) -> int:
        return sum(steps <= TIE_STEPS for steps in self.margin_steps)


def agreement(engine: Engine, requests: Sequence[GenerationRequest], prompts: Sequence[Sequence[int]]) -> Agreement:
    """Greedy requests of one k, decoded together by the engine; prompts: their token ids. Has the engine to itself."""
    k = int(requests[0].routing.num_experts_per_tok)
    replies: list[list[int]] = [[] for _ in requests]
    for row, event in engine.stream_together(requests):
        if isinstance(event, Token):
            replies[row].append(event.token_id)
    margins: list[float] = []
    with stock_at(engine.model, k):
        for prompt, reply in zip(prompts, replies, strict=True):
            margins += _margins(engine.model, prompt, reply)
    return Agreement(len(requests), k, len(margins), tuple(margin for margin in margins if margin > 0))


@torch.inference_mode()
def _margins(model: torch.nn.Module, prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
    """For each token of the reply: how many steps of the dtype stock's best logit is above that token's."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *reply]], device=device)
    logits = model(ids[:, :-1], use_cache=False, logits_to_keep=len(reply)).logits[0]
    best = logits.max(1).values
    ours = logits.gather(1, ids[0, -len(reply):, None])[:, 0]
    return ((best - ours).float() / step_at(best)).tolist()


def step_at(values: Tensor) -> Tensor:
    """The distance from each value to the next that its dtype can hold, float32."""
    exponent = torch.frexp(values.float()).exponent - 1  # 2**exponent <= |value| < 2**(exponent + 1)
    return torch.finfo(values.dtype).eps * torch.exp2(exponent.float())
