"""Rules that choose k for each token and layer anew, by name and one parameter; and factors on single experts.

p is the router's softmax over all experts of a layer, most probable first. Every k is clamped to [k_min, k_max]:

top-p          the smallest k with p_1 + ... + p_k >= P                          (Huang et al. 2024, arXiv 2403.07652)
relative-skip  the experts with p_i >= beta p_1                                  (Lu et al. 2024, arXiv 2402.14800)
entropy        round(k_min + (k_max - k_min) clip((H/ln E - start) / 0.16, 0, 1)), H the entropy of p in nats
layer-budget   k_l for layer l, whatever the token; the k_l sum to the budget    (arXiv 2509.02753)
random         k experts drawn at random, with the router's own weights for them: the control

How the router applies them is the engine's (`engine.routing`); how the k_l are found, `lab.layer_budget`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .checks import real_number, shown, whole_number

TOP_P, RELATIVE_SKIP, ENTROPY, LAYER_BUDGET, RANDOM = (
    "top-p", "relative-skip", "entropy", "layer-budget", "random")
DEFAULTS = {TOP_P: 0.4, RELATIVE_SKIP: 0.3, ENTROPY: 0.8}  # the other two hang on the model
ENTROPY_WIDTH = 0.16  # of H/ln E, from k_min to k_max
MAX_FACTOR = 4.0

PARAMETERS: dict[str, Callable[[Any], float]] = {
    TOP_P: lambda x: real_number(x, "P of top-p", "a number above 0 and at most 1", lambda v: 0 < v <= 1),
    RELATIVE_SKIP: lambda x: real_number(x, "β of relative-skip", "a number from 0 to 1", lambda v: 0 <= v <= 1),
    ENTROPY: lambda x: real_number(x, "The entropy to start from", "a number from 0 to 1", lambda v: 0 <= v <= 1),
    LAYER_BUDGET: lambda x: whole_number(x, "The budget of all layers", 1),
    RANDOM: lambda x: whole_number(x, "The number of random experts", 1),
}


@dataclass(frozen=True)
class TokenRule:
    """A rule by name, with its parameter: P, beta, start, the budget or k.

    ks: of layer-budget alone: k_l for each layer; empty until they have been found for the loaded model.
    """

    name: str
    parameter: float
    ks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in PARAMETERS:
            raise ValueError(f"The rule must be one of {', '.join(PARAMETERS)}; got {shown(self.name)}.")
        object.__setattr__(self, "parameter", PARAMETERS[self.name](self.parameter))
        ks = tuple(whole_number(k, "k of a layer", 1) for k in self.ks)
        if ks and (self.name != LAYER_BUDGET or sum(ks) != self.parameter):
            raise ValueError(f"The ks of a layer-budget must sum to it; they sum to {sum(ks)}, "
                             f"the parameter of {self.name} is {self.parameter:g}.")
        object.__setattr__(self, "ks", ks)

    @property
    def is_settled(self) -> bool:
        """Whether a router can apply it: a layer-budget must know its ks."""
        return self.name != LAYER_BUDGET or bool(self.ks)

    def with_ks(self, ks: tuple[int, ...]) -> TokenRule:
        return replace(self, ks=ks)

    def largest_k(self, k_min: int, k_max: int) -> int:
        """The largest k that it may choose within the bounds."""
        most = max(self.ks, default=k_max) if self.name == LAYER_BUDGET else (
            int(self.parameter) if self.name == RANDOM else k_max)
        return min(max(most, k_min), k_max)

    def in_words(self) -> str:
        """top-p 0.4"""
        return f"{self.name} {self.parameter:g}"

    def reasons(self, k_min: int, k_max: int) -> dict[str, Any]:
        """Why k is what it is, for the page: the rule in words and what it does. JSON-safe."""
        end = min(1.0, self.parameter + ENTROPY_WIDTH)
        what = {
            TOP_P: f"Each token gets, in each layer, the fewest experts whose probabilities reach {self.parameter:g}.",
            RELATIVE_SKIP: "Each token gets, in each layer, the experts that are at least "
                           f"{self.parameter:g} times as probable as the first.",
            ENTROPY: f"k grows from {k_min} to {k_max} while the router's entropy goes from {self.parameter:g} to "
                     f"{end:g} of its maximum.",
            LAYER_BUDGET: f"Each layer has its own k, the same for every token; together they are {self.parameter:g}: "
                          "those that change the experts' output least on a calibration text.",
            RANDOM: f"{self.parameter:g} experts are drawn at random for each token and layer, with the router's own "
                    "weights for them: a control.",
        }[self.name]
        return {"rule": self.in_words(), "what": what, "k_min": k_min, "k_max": k_max}


def parse(text: str) -> TokenRule:
    """ "top-p:0.4" -> the rule. Raises ValueError naming what is wrong."""
    name, colon, parameter = str(text).partition(":")
    if not colon:
        raise ValueError(f"A rule is written NAME:PARAMETER, such as top-p:0.4; got {shown(text)}.")
    return TokenRule(name.strip(), parameter.strip())  # type: ignore[arg-type]  # checked there


class ExpertScale(NamedTuple):
    """The factor on one expert's weight, 0 (muted) to 4."""

    layer: int
    expert: int
    factor: float

    @classmethod
    def checked(cls, layer: Any, expert: Any, factor: Any) -> ExpertScale:
        return cls(whole_number(layer, "The layer of a scaled expert", 0),
                   whole_number(expert, "A scaled expert", 0),
                   real_number(factor, "The factor of an expert", f"a number from 0 (muted) to {MAX_FACTOR:g}",
                               lambda x: 0 <= x <= MAX_FACTOR))
