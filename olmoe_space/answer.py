"""A reply as plain JSON: what `/generate` and the shell hand out."""

from __future__ import annotations

from typing import Any

from .adaptive import Choice
from .trace import RoutingTrace, TraceRecorder

EXPERTS = ("mean_k", "expert_counts", "prompt_expert_counts", "routing_mass", "routing_entropy")


def final_answer(recorder: TraceRecorder, choice: Choice | None = None) -> dict[str, Any]:
    """Everything about a reply.

    expert_counts and prompt_expert_counts: L x E, how many tokens of the reply (the prompt) each expert worked on;
    a row of the first sums to new_tokens x k, of which mean_k is the mean over the reply's tokens and layers. policy:
    what k alone does not say, in words. routing_mass: mean over the reply's tokens and layers of the share of the
    router's probability that the selected experts hold. routing_entropy: likewise, in nats. finish_reason is
    "stopped", and what only the engine could have measured None, for a reply that was not let to its end. From a
    server that does not tell which experts fired, what would follow from them is None. answered_by: where there are
    several engines. Raises ValueError for a reply that has not begun.
    """
    started, finished = recorder.started, recorder.finished
    if started is None:
        raise ValueError("The reply has not begun.")
    told = _experts(recorder.trace()) if recorder.tells_routing else dict.fromkeys(EXPERTS)
    return {
        "text": recorder.text,
        "num_experts_per_tok": started.num_experts_per_tok,
        "policy": started.policy,
        "weighting": started.weighting,
        "seed": started.seed,
        "prompt_tokens": finished.prompt_tokens if finished else started.prompt_tokens,
        "new_tokens": finished.new_tokens if finished else recorder.new_tokens if recorder.tells_routing else None,
        "finish_reason": finished.finish_reason if finished else "stopped",
        **told,
        "ttft_s": round(finished.ttft_s, 4) if finished else None,
        "tokens_per_s": round(finished.tokens_per_s, 2) if finished else None,
        "notices": list(started.notices),
        **({"answered_by": by} if (by := (finished or started).answered_by) else {}),
        **({"choice": choice.as_dict()} if choice else {}),
    }


def _experts(trace: RoutingTrace) -> dict[str, Any]:
    mass, entropy = trace.routing_mass("decode"), trace.routing_entropy("decode")
    values = (round(trace.mean_k("decode"), 4), trace.expert_counts("decode").tolist(),
              trace.expert_counts("prefill").tolist(), round(float(mass.mean()), 6) if mass.size else 0.0,
              round(float(entropy.mean()), 6) if entropy.size else 0.0)
    return dict(zip(EXPERTS, values, strict=True))
