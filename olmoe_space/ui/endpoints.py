"""The endpoints: the same questions as on the page, for programs and, as MCP tools, for other models. Bad input is a
gr.Error with a plain sentence."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import gradio as gr

from ..answer import final_answer
from ..ask import DEFAULT_K_MAX, DEFAULT_K_MIN, Question, choice_from_fields, given_seed, request_from_fields
from ..comparison import partings, reply_of
from ..events import Piece, Token
from ..model_info import ModelInfo
from ..settings import Settings
from ..trace import TraceRecorder
from .chat import MODEL_QUEUE
from .turn import Job, Stream, closing_iterator

Weighting = Literal["raw", "renormalised", "mass_preserving"]
MOST_COMPARED = 8  # settings of one /compare: rows of one batch


def endpoints(info: ModelInfo, stream: Stream, settings: Settings, job: Job | None = None) -> None:
    """Registers /generate, /choose_experts and, given `job`, /compare with the Blocks being built."""
    low, high = min(DEFAULT_K_MIN, info.num_experts), min(DEFAULT_K_MAX, info.num_experts)

    def generate(
        message: str,
        history: list[dict[str, Any]] | None = None,
        mode: Literal["fixed", "adaptive", "per-token"] = "fixed",
        num_experts_per_tok: int = info.default_k,
        k_min: int = low,
        k_max: int = high,
        weighting: Weighting = "raw",
        system_prompt: str = "",
        temperature: float = 0.6,
        top_p: float = 0.95,
        max_new_tokens: int = 256,
        seed: int | None = None,
        rule: Literal["top-p", "relative-skip", "entropy", "layer-budget", "random"] = "top-p",
        parameter: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Replies to a message, streaming JSON objects; every one holds the `text` so far.

        message: what to answer. history: earlier messages, a list of {role, content}.
        mode: "fixed": num_experts_per_tok experts work on each token; "adaptive": k is chosen from the prompt
        between k_min and k_max; "per-token": rule chooses k for each token and layer between k_min and k_max, by its
        parameter (top-p: the sum of probabilities to reach; relative-skip: the share of the first expert's; entropy:
        the share of its maximum to start from; layer-budget: experts of all layers together; random: experts to
        draw; None: the rule's usual one). weighting: raw (the router's own weights), renormalised (they sum to 1) or
        mass_preserving (they sum to what the model's own k would). temperature 0 is greedy.
        seed: None or -1 for a fresh one; the seed used is reported.

        The last object holds text, num_experts_per_tok (in per-token mode the largest), mean_k, policy, weighting,
        seed, prompt_tokens, new_tokens, finish_reason ("stop", "length" or "time"), expert_counts (layers x experts:
        how many of the reply's tokens each expert worked on; a row sums to new_tokens x k), prompt_expert_counts (the
        same for the prompt), routing_mass and routing_entropy (means over the reply's tokens and the layers; nats),
        ttft_s, tokens_per_s, notices, and in adaptive mode choice (k, score, contributions, terms).
        """
        with _refused_in_words():
            question = request_from_fields(
                message, history, info=info, settings=settings, mode=mode, num_experts_per_tok=num_experts_per_tok,
                k_min=k_min, k_max=k_max, weighting=weighting, system_prompt=system_prompt, temperature=temperature,
                top_p=top_p, max_new_tokens=max_new_tokens, seed=seed, rule=rule, parameter=parameter)
            yield from _answers(question, stream, settings.live_updates_per_s)

    def choose_experts(message: str, k_min: int = low, k_max: int = high) -> dict[str, Any]:
        """The number of experts that adaptive mode would use for a message, and why.

        Returns k, score (0 to 1), contributions (what each feature of the message added to the score) and
        terms (the technical terms found).
        """
        with _refused_in_words():
            return choice_from_fields(message, k_min, k_max, info=info, settings=settings).as_dict()

    def compare(
        message: str,
        num_experts_per_tok: list[int] | None = None,
        weighting: Weighting = "raw",
        system_prompt: str = "",
        temperature: float = 0,
        top_p: float = 1,
        max_new_tokens: int = 64,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """Replies to one message with several numbers of active experts (k), all drawn with the same seed, so that
        what differs between the replies comes from k alone. More experts do not mean better replies.

        num_experts_per_tok: the k to compare, such as [1, 8, 64]; None: half of the model's own, its own and twice
        that. temperature 0 is greedy. The other settings are those of generate.

        Returns seed, replies (one a k, each as generate's last object) and common_tokens: how many tokens all replies
        begin with before the first that differs, or None if none does.
        """
        with _refused_in_words():
            ks = [info.default_k // 2 or 1, info.default_k, min(2 * info.default_k, info.num_experts)] \
                if num_experts_per_tok is None else num_experts_per_tok
            if not isinstance(ks, list) or not 2 <= len(ks) <= MOST_COMPARED:
                raise ValueError(f"Compare needs a list of 2 to {MOST_COMPARED} numbers, such as [1, 8, 64].")
            given = given_seed(seed)
            shared = secrets.randbelow(2**32) if given is None else given
            questions = [request_from_fields(
                message, info=info, settings=settings, num_experts_per_tok=k, weighting=weighting,
                system_prompt=system_prompt, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens,
                seed=shared) for k in ks]
            assert job is not None
            return _compared(questions, job) | {"seed": shared}

    for function in (generate, choose_experts, compare):  # gradio documents what is yielded, not that it is an iterator
        function.__annotations__["return"] = dict[str, Any]
    gr.api(generate, api_name="generate", concurrency_id=MODEL_QUEUE,
           concurrency_limit=settings.max_concurrent_chats)
    gr.api(choose_experts, api_name="choose_experts", concurrency_limit=settings.max_concurrent_chats)
    if job is not None:
        gr.api(compare, api_name="compare", concurrency_id=MODEL_QUEUE,
               concurrency_limit=settings.max_concurrent_chats)


@contextmanager
def _refused_in_words() -> Iterator[None]:
    try:
        yield
    except gr.Error:  # a ValueError too, already in words; its str would put them in quotation marks
        raise
    except ValueError as refused:
        raise gr.Error(str(refused), print_exception=False) from None


def _compared(questions: Sequence[Question], job: Job) -> dict[str, Any]:
    """The questions as rows of one batch -> their answers, and where the replies part."""
    recorders = [TraceRecorder() for _ in questions]
    with closing_iterator(job("compare", [question.request for question in questions])) as events:
        for row, event in events:
            recorders[row].add(event)
    parted = partings([reply_of(recorder.trace()) for recorder in recorders])
    return {"replies": [final_answer(recorder, None) for recorder in recorders],
            "common_tokens": parted[0].position if parted else None}


def _answers(question: Question, stream: Stream, per_second: float) -> Iterator[dict[str, Any]]:
    """The stream's events -> objects on a clock, the last one complete."""
    recorder = TraceRecorder()
    due = 0.0
    with closing_iterator(stream(question.request)) as events:
        for event in events:
            recorder.add(event)
            if isinstance(event, (Token, Piece)) and time.monotonic() >= due:
                due = time.monotonic() + 1 / per_second
                yield {"text": recorder.text, "new_tokens": recorder.new_tokens if recorder.tells_routing else None}
    yield final_answer(recorder, question.choice)
