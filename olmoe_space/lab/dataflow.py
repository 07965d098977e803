"""Text -> `Walk`: one forward of the engine, watched, and every step of one token told in numbers that add up.

Nothing is computed a second way to be shown: each tensor is what the engine's own forward passed on. Two things
that it never forms are made from what it did: the attention weights (it uses a fused kernel) and each expert's
output by itself (it sums as it goes). The checks compare what those add up to with what the forward had.

Shapes: T tokens so far, L layers, A/G query/key heads, D head width, H hidden, E experts, K selected, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.cache import KeyValueCache
from ..engine.engine import Engine, token_texts
from ..engine.experts import expert_outputs
from ..engine.forward import StepOutput, forward, rms_norm
from ..engine.routing import row_routing
from ..model.int8 import linear, plain
from ..model.structure import LayerWeights, OlmoeWeights, weights_of
from ..request import RoutingPolicy
from ..walk import MAX_TOKENS, Check, ExpertWork, LayerWalk, Selection, Shape, Vector, Walk

TOP_CANDIDATES = 100  # next tokens told by their text
OTHER_KS = (8, 16)    # what else the selection is shown at

# ‖shown - model‖ / ‖model‖ that rounding alone explains: float32 differs by the order of sums (1e-6 seen);
# 16 bits round every product, and the residual stream after each of its 2 L additions.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


@torch.inference_mode()
def walk(engine: Engine, text: str, token: int = -1, routing: RoutingPolicy | None = None) -> Walk:
    """The way of `text`'s token number `token` (negative: from the end) through the engine's model.

    The text is read as it stands, without a chat's role tags. Raises ValueError for what cannot be walked.
    """
    began = time.perf_counter()
    weights = weights_of(engine.model)
    policy = routing or RoutingPolicy(weights.default_k)
    rows = row_routing([policy], weights.num_experts, weights.device, len(weights.layers))
    ids = token_ids(engine.tokenizer, text, min(MAX_TOKENS, engine.context_length))
    at = token_index(token, len(ids))
    record = _Record()
    cache = KeyValueCache(weights, 1, len(ids))
    with engine.turn:
        step = forward(weights, torch.tensor([ids], device=weights.device), cache, [0], rows, all_logits=True,
                       watch=record.take)
    teller = _Teller(weights, record, step, at, rows.k_max)
    layers = tuple(teller.layer(i) for i in range(len(weights.layers)))
    logits = step.logits[0, at]
    top = logits.topk(min(TOP_CANDIDATES, logits.shape[-1])).indices.tolist()
    return Walk(
        text, tuple(ids), token_texts(engine.tokenizer, ids), at, rows.k_max, policy.weighting, shape_of(weights),
        _vector(record.row("embedding", -1, at)), layers, _vector(record.row("final_norm", -1, at)), _array(logits),
        tuple(top), tuple(engine.tokenizer.decode([i]) for i in top), teller.checks(), time.perf_counter() - began)


def token_ids(tokenizer: Any, text: str, limit: int) -> list[int]:
    """`text` -> ids, at most `limit`."""
    ids = list(tokenizer(text)["input_ids"]) if text else []
    if not ids:
        raise ValueError("The text is empty. Type something first.")
    if len(ids) > limit:
        raise ValueError(f"The text has {len(ids):,} tokens; a walk shows at most {limit:,}. Shorten it.")
    return ids


def token_index(token: int, count: int) -> int:
    """-1 is the last, as in Python."""
    if isinstance(token, bool) or not isinstance(token, int) or not -count <= token < count:
        raise ValueError(f"The token must be from 0 to {count - 1} (or from -1 back to {-count}); got {token!r}.")
    return token % count


def attention_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """One token's softmax(q·k / √D) over the tokens it may see, in float32 (Vaswani et al. 2017, arXiv 1706.03762).

    queries [A, D], keys [G, T, D]; each key head serves A/G query heads. -> [A, T], rows sum to 1.
    """
    keys = keys.float().repeat_interleave(queries.shape[0] // keys.shape[0], 0)
    return torch.softmax(torch.einsum("ad,atd->at", queries.float(), keys) / queries.shape[-1] ** 0.5, -1)


def attention_sum(weights: Tensor, values: Tensor, layer: LayerWeights) -> Tensor:
    """weights [A, T] over values [G, T, D], then the output projection: float32 [H]."""
    matrix = plain(layer.o_proj, values.dtype).float()
    values = values.float().repeat_interleave(weights.shape[0] // values.shape[0], 0)
    heads = torch.einsum("at,atd->ad", weights, values)
    return F.linear(heads.flatten(), matrix, None if layer.o_bias is None else layer.o_bias.float())


def selection_at(probabilities: np.ndarray, k: int) -> Selection:
    """The k most probable experts of probabilities [E] and their mass."""
    best = np.argsort(-probabilities, kind="stable")[:k]
    return Selection(k, tuple(int(e) for e in best), float(probabilities[best].astype(np.float64).sum()))


def relative_error(shown: Tensor, computed: Tensor) -> float:
    """‖shown - computed‖ / ‖computed‖, in float64; 0 for two zeros."""
    a, b = shown.double(), computed.double()
    error, size = float((a - b).norm()), float(b.norm())
    return error / size if size > 0 else error


def shape_of(weights: OlmoeWeights) -> Shape:
    layer = weights.layers[0]
    return Shape(len(weights.layers), weights.num_heads, weights.num_kv_heads, weights.head_dim,
                 weights.embedding.shape[1], weights.num_experts, layer.down_proj.shape[-1],
                 weights.lm_head.shape[0], weights.default_k, str(weights.dtype).removeprefix("torch."))


def inside(engine: Engine, text: str, token: int, routing: RoutingPolicy) -> Iterator[Walk]:
    """The job behind the tab: one walk, cut to what a page shows."""
    yield walk(engine, text, token, routing).head()


def as_json(told: Walk, layer: int) -> dict[str, Any]:
    """A walk as plain data: one layer in full, the others in summary, the ten most probable next tokens."""
    depth = len(told.layers)
    chosen = told.layers[layer_index(layer, depth)]
    probabilities = torch.softmax(torch.from_numpy(told.logits).double(), -1).numpy()
    return {
        "text": told.text, "token_ids": told.token_ids, "pieces": told.pieces, "token": told.token, "k": told.k,
        "weighting": told.weighting, "shape": vars(told.shape), "embedding": _plain(told.embedding),
        "layer": layer % depth, "chosen_layer": {name: _plain(value) for name, value in vars(chosen).items()},
        "layers": [{"stream_norm": x.stream_out.norm, "attention_norm": x.attention_output.norm,
                    "experts_norm": x.experts_output.norm, "mass": x.mass, "entropy": x.entropy,
                    "experts": [work.expert for work in x.experts]} for x in told.layers],
        "final_norm": _plain(told.final_norm),
        "next": [{"token_id": i, "piece": piece, "logit": float(told.logits[i]), "probability": float(probabilities[i])}
                 for i, piece in list(zip(told.top_ids, told.top_pieces, strict=True))[:10]],
        "checks": [vars(check) | {"passed": check.passed} for check in told.checks], "seconds": told.seconds,
    }


def as_text(told: Walk, layer: int) -> str:
    """A walk for the eye: its tokens, one layer, what comes next, and whether it adds up."""
    chosen = told.layers[layer_index(layer, len(told.layers))]
    reads = chosen.attention.mean(0)
    lines = ["tokens      " + " ".join(f"{i}:{piece!r}" for i, piece in enumerate(told.pieces)),
             f"walked      {told.token}:{told.pieces[told.token]!r}, layer {layer % len(told.layers)} "
             f"of {len(told.layers)}",
             "attention   " + " ".join(f"{i}:{share:.3f}" for i, share in enumerate(reads)) + "  (mean of the heads)",
             f"router      {told.k} of {told.shape.num_experts} experts, {told.weighting}, mass {chosen.mass:.3f}"]
    lines += [f"            expert {work.expert:<3} probability {work.probability:.4f}  weight {work.weight:.4f}  "
              f"output norm {work.output.norm:.3f}  contribution {work.contribution_norm:.3f}"
              for work in chosen.experts]
    lines += [f"stream norm {chosen.stream_in.norm:.3f} + attention {chosen.attention_output.norm:.3f} + experts "
              f"{chosen.experts_output.norm:.3f} -> {chosen.stream_out.norm:.3f}",
              "next        " + " ".join(repr(piece) for piece in told.top_pieces[:10])]
    lines += [f"check       {check.name}: error {check.error:.1e}, {'adds up' if check.passed else 'DOES NOT ADD UP'}"
              for check in told.checks]
    return "\n".join(lines)


def layer_index(layer: int, depth: int) -> int:
    if not -depth <= layer < depth:
        raise ValueError(f"The layer must be from 0 to {depth - 1}; got {layer}.")
    return layer % depth


class _Record:
    """What the forward told, by name and layer; batch of one."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, int], Tensor] = {}

    def take(self, name: str, layer: int, value: Tensor) -> None:
        self.told[name, layer] = value[0]

    def row(self, name: str, layer: int, token: int) -> Tensor:
        """[H]"""
        return self.told[name, layer][token]


class _Teller:
    """One token's layers from the record, in order; on the way it adds up what it tells, and compares.

    `stream`: the embedding plus every contribution told so far, in float32 (a copy of the residual stream made of
    nothing but what is shown).
    """

    def __init__(self, weights: OlmoeWeights, record: _Record, step: StepOutput, token: int, k: int) -> None:
        self.weights, self.record, self.step, self.token, self.k = weights, record, step, token, k
        self.stream = record.row("embedding", -1, token).float()
        self.errors: dict[str, list[float]] = {}

    def layer(self, i: int) -> LayerWalk:
        layer, row = self.weights.layers[i], lambda name: self.record.row(name, i, self.token)
        stream_in = self._stream_in(i)
        attention, attended = self._attention(i, layer)
        self._compare("attention", attended, row("attention_output"))
        self._compare("residual", stream_in + row("attention_output"), row("stream_between"))

        routed = self.step.router_logits[0, self.token, i]
        self.stream = self.stream + attended
        normed = rms_norm(self.stream.to(self.weights.dtype), layer.experts_norm, self.weights.norm_eps)
        self._compare("router", F.linear(normed, layer.router), routed)
        probabilities = torch.softmax(routed, -1)
        working = int(self.step.active_experts[0, self.token, i])
        chosen = self.step.selected_experts[0, self.token, i, :working].long()
        applied = self.step.routing_weights[0, self.token, i, :working]
        outputs = expert_outputs(row("experts_input")[None], chosen, layer, self.weights).float()
        summed = applied @ outputs
        self._compare("experts", summed, row("experts_output"))
        self._compare("residual", row("stream_between") + row("experts_output"), row("stream_out"))
        self.stream = self.stream + summed

        shares = _array(probabilities)
        works = tuple(ExpertWork(expert, float(shares[expert]), weight, _vector(output)) for expert, weight, output
                      in zip(chosen.tolist(), applied.tolist(), outputs, strict=True))
        return LayerWalk(
            _vector(stream_in), _vector(row("attention_input")), _array(attention), _vector(row("attention_output")),
            _vector(row("stream_between")), _vector(row("experts_input")), _array(routed), shares,
            self._selections(shares, works), works, _vector(row("experts_output")), _vector(row("stream_out")))

    def checks(self) -> tuple[Check, ...]:
        """After the last layer: the largest error of each kind over all layers, and that of the logits."""
        final = rms_norm(self.stream.to(self.weights.dtype), self.weights.final_norm, self.weights.norm_eps)
        self._compare("logits", linear(final, self.weights.lm_head), self.step.logits[0, self.token])
        tolerance = TOLERANCE[self.weights.dtype]
        return tuple(Check(name, max(errors), tolerance) for name, errors in self.errors.items())

    def _selections(self, shares: np.ndarray, works: tuple[ExpertWork, ...]) -> tuple[Selection, ...]:
        """At k as the model did it; at the others as it would have, given the same input."""
        others = dict.fromkeys(min(k, shares.size) for k in OTHER_KS)
        made = Selection(len(works), tuple(w.expert for w in works), sum(w.probability for w in works))
        return made, *(selection_at(shares, k) for k in others if k != made.k)

    def _stream_in(self, i: int) -> Tensor:
        before = ("stream_out", i - 1) if i else ("embedding", -1)
        return self.record.row(*before, self.token)

    def _attention(self, i: int, layer: LayerWeights) -> tuple[Tensor, Tensor]:
        """weights [A, T] over the tokens up to this one, and what they bring, [H]."""
        seen = slice(0, self.token + 1)
        told = self.record.told
        weights = attention_weights(told["queries", i][:, self.token], told["keys", i][:, seen])
        return weights, attention_sum(weights, told["values", i][:, seen], layer)

    def _compare(self, name: str, shown: Tensor, computed: Tensor) -> None:
        self.errors.setdefault(name, []).append(relative_error(shown, computed))


def _array(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.float().cpu().numpy())


def _vector(values: Tensor) -> Vector:
    return Vector.of(_array(values))


def _plain(value: Any) -> Any:
    """Dataclasses and arrays -> what json knows."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(item) for name, item in vars(value).items()}
    return value
