"""A reply as plain JSON: what `/generate` and the shell hand out."""

from __future__ import annotations

from typing import Any

from .adaptive import Choice
from .trace import TraceRecorder


def final_answer(recorder: TraceRecorder, choice: Choice | None = None) -> dict[str, Any]:
    """Everything about a reply.

    expert_counts and prompt_expert_counts: L x E, how many tokens of the reply (the prompt) each expert worked on;
    a row of the first sums to new_tokens x k, of which mean_k is the mean over the reply's tokens and layers. policy:
    what k alone does not say, in words. routing_mass: mean over the reply's tokens and layers of the share of the
    router's probability that the selected experts hold. routing_entropy: likewise, in nats. finish_reason is
    "stopped", and what only the engine could have measured None, for a reply that was not let to its end. answered_by:
    where there are several engines. Raises ValueError for a reply that has not begun.
    """
    started, finished = recorder.started, recorder.finished
    if started is None:
        raise ValueError("The reply has not begun.")
    trace = recorder.trace()
    mass, entropy = trace.routing_mass("decode"), trace.routing_entropy("decode")
    return {
        "text": trace.text("decode"),
        "num_experts_per_tok": started.num_experts_per_tok,
        "mean_k": round(trace.mean_k("decode"), 4),
        "policy": started.policy,
        "weighting": started.weighting,
        "seed": started.seed,
        "prompt_tokens": started.prompt_tokens,
        "new_tokens": recorder.new_tokens,
        "finish_reason": finished.finish_reason if finished else "stopped",
        "expert_counts": trace.expert_counts("decode").tolist(),
        "prompt_expert_counts": trace.expert_counts("prefill").tolist(),
        "routing_mass": round(float(mass.mean()), 6) if mass.size else 0.0,
        "routing_entropy": round(float(entropy.mean()), 6) if entropy.size else 0.0,
        "ttft_s": round(finished.ttft_s, 4) if finished else None,
        "tokens_per_s": round(finished.tokens_per_s, 2) if finished else None,
        "notices": list(started.notices),
        **({"answered_by": by} if (by := (finished or started).answered_by) else {}),
        **({"choice": choice.as_dict()} if choice else {}),
    }
