"""A text read by the model, nothing generated: its routing trace; and from it a survey, or a sample's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..engine.cache import KeyValueCache
from ..engine.engine import Engine, token_texts
from ..engine.forward import forward
from ..engine.routing import row_routing
from ..model.structure import weights_of
from ..request import RoutingPolicy
from ..survey import Overlap, RoutedText, Survey
from ..trace import RoutingTrace
from .domain_sample import sample_texts
from .router_analysis import jensen_shannon, survey_of

CHUNK = 256  # tokens a forward; between two of them chats take their turn


def read(engine: Engine, token_ids: Sequence[int], policy: RoutingPolicy, prompt_tokens: int = 0,
         seed: int = 0) -> RoutingTrace:
    """Token ids -> their trace. Of a chat the first `prompt_tokens` are the prompt and the others the reply. seed: of a
    policy that draws experts.

    Raises ValueError for a text that is empty or too long for the context, and for a k that the model cannot have.
    """
    if not token_ids:
        raise ValueError("The text is empty. Type something first.")
    if len(token_ids) > engine.context_length:
        raise ValueError(f"The text has {len(token_ids):,} tokens; this model's context holds "
                         f"{engine.context_length:,}. Shorten it.")
    weights = weights_of(engine.model)
    routing = row_routing([policy], weights.num_experts, weights.device, len(weights.layers), [seed])
    ids = torch.tensor([list(token_ids)], device=weights.device)
    cache = KeyValueCache(weights, 1, ids.shape[1])
    steps = []
    for chunk in ids.split(CHUNK, 1):
        with engine.turn:
            steps.append(forward(weights, chunk, cache, [0], routing))
    join = lambda name: torch.cat([getattr(s, name)[0] for s in steps]).cpu().numpy()  # noqa: E731
    return RoutingTrace(np.array(token_ids, dtype=np.int64), token_texts(engine.tokenizer, token_ids), prompt_tokens,
                        join("router_logits"), join("selected_experts"), join("routing_weights"),
                        join("active_experts"), routing.k_max, policy.weighting, seed, policy=policy.in_words())


def survey_texts(engine: Engine, texts: Sequence[tuple[str, str]], policy: RoutingPolicy) -> Iterator[Survey | Overlap]:
    """(name, text) once or twice -> the survey of each as it stands, without a chat's role tags; of two, their overlap.
    """
    surveys = []
    for name, text in texts:
        ids = list(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
        surveys.append(survey_of(read(engine, ids, policy), name))
        yield surveys[-1]
    if len(surveys) == 2:
        first, second = surveys
        yield Overlap(first.name, second.name, jensen_shannon(first.counts, second.counts))


def survey_reply(engine: Engine, prompt: Sequence[int], reply: Sequence[int], policy: RoutingPolicy,
                 name: str, seed: int = 0) -> Iterator[Survey]:
    """A chat's prompt and reply, as token ids, read again -> the survey of the reply."""
    yield survey_of(read(engine, [*prompt, *reply], policy, len(prompt), seed), name, "decode")


def read_sample(engine: Engine, domain: str, policy: RoutingPolicy) -> Iterator[RoutedText]:
    """Every text of one domain of the sample with its tokens' experts."""
    for sample in sample_texts(domain):
        encoded = engine.tokenizer(sample.text, add_special_tokens=False, return_offsets_mapping=True)
        trace = read(engine, encoded["input_ids"], policy)
        ends = np.array([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
        yield RoutedText(sample.text, sample.domain, sample.topic, trace.token_ids, trace.texts, ends,
                         trace.selected_experts)
