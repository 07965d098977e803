"""A page over a scripted model: real events in the shape of OLMoE's, made up on the spot, and a record of what
was asked and whether its computation was ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from olmoe_space.events import Event, Finished, Prefilled, Routing, Started, Token
from olmoe_space.model_info import ModelInfo
from olmoe_space.request import GenerationRequest
from olmoe_space.settings import Settings
from olmoe_space.ui.page import build_page, launch_options

from .serving import free_port

LAYERS, EXPERTS = 16, 64
INFO = ModelInfo(name="olmoe-tiny", num_layers=LAYERS, num_experts=EXPERTS, default_k=8, hidden_size=256,
                 intermediate_size=32, num_heads=4, vocab_size=8192, context_length=1024, norm_topk_prob=False,
                 total_params=31_700_000, dtype="float32", device="CPU", backend="PyTorch", has_chat_template=True,
                 notice="No CUDA device was found: {{7*7}} <i>so</i> the small model is served.",
                 stands_in_for="allenai/OLMoE-1B-7B-0125-Instruct")
HOSTILE = "<script>window.hacked=1</script> <b>bold</b> {{7*7}} ${alert(1)} &lt;i&gt; <!-- gone? -->"
REPLIES = {"hostile": HOSTILE, "code": "def f(x):\n    return x < 2 and x<b", "long": "on and " * 110,
           "break": "It began well " * 20, "silent": ""}


def routing(rng: np.random.Generator, tokens: int, k: int) -> Routing:
    logits = rng.normal(size=(tokens, LAYERS, EXPERTS)).astype(np.float32)
    selected = np.argsort(-logits, -1)[..., :k].astype(np.uint8)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Routing(logits, selected, np.take_along_axis(probs, selected.astype(np.int64), -1))


@dataclass
class ScriptedModel:
    """Answers by a word in the prompt (see REPLIES), else by repeating it; "refuse" and "break" go wrong.

    asked: every request. running: computations begun and not ended. s_per_token: its pace.
    """

    s_per_token: float = 0.02
    asked: list[GenerationRequest] = field(default_factory=list)
    running: int = 0

    def stream(self, request: GenerationRequest) -> Iterator[Event]:
        self.asked.append(request)
        self.running += 1
        try:
            yield from self._events(request)
        finally:
            self.running -= 1

    def _events(self, request: GenerationRequest) -> Iterator[Event]:
        prompt, k = request.prompt, request.routing.num_experts_per_tok
        assert isinstance(k, int), "adaptive k must be settled before the engine"
        if "refuse" in prompt:
            raise ValueError("The message has 2,000 tokens; the model's context holds 1,024. Shorten it.")
        seed = 7 if request.sampling.seed is None else request.sampling.seed
        rng = np.random.default_rng(seed)
        words = prompt.split()
        notices = ("The 2 oldest messages were left out.",) if "forget" in prompt else ()
        yield Started(len(words), k, request.routing.weighting, seed, request.sampling.max_new_tokens, notices)
        yield Prefilled(tuple(range(len(words))), tuple(f"{word} " for word in words), routing(rng, len(words), k))
        text = next((reply for word, reply in REPLIES.items() if word in prompt), f"You said: {prompt}")
        pieces = [text[i:i + 4] for i in range(0, len(text), 4)]
        made = pieces[:request.sampling.max_new_tokens]
        for i, piece in enumerate(made):
            if "break" in prompt and i == 8:
                raise RuntimeError("the device <b>went</b> away")
            time.sleep(self.s_per_token)
            yield Token(i, piece, routing(rng, 1, k))
        reason = "stop" if len(made) == len(pieces) else "length"
        yield Finished(reason, len(words), len(made), 0.15, max(1, len(made) - 1) / 50)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ScriptedServer:
    url: str
    model: ScriptedModel


@contextmanager
def serve_scripted(**settings: int) -> Iterator[ScriptedServer]:
    """The page over a scripted model, in this process, on a free port."""
    model = ScriptedModel()
    where = replace(Settings(port=free_port()), **settings)  # type: ignore[arg-type]
    page = build_page(INFO, model.stream, where)
    page.launch(**launch_options(where), prevent_thread_lock=True, quiet=True)
    try:
        yield ScriptedServer(f"http://{where.host}:{where.port}/", model)
    finally:
        page.close()
