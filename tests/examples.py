"""One hand-worked conversation of events, small enough to check on paper. L = 2 layers, E = 4 experts, K = 2."""

from __future__ import annotations

import numpy as np

from olmoe_space.events import Finished, Prefilled, Routing, Started, Token

LOG = np.log(np.array([[8, 4, 2, 2], [1, 1, 1, 1]], dtype=np.float32))  # [L, E]: probabilities /16 and /4


def routing(*tokens: list[list[int]], weights: tuple[float, float] = (0.5, 0.25)) -> Routing:
    """Routing of tokens that each select [layer][rank]; every router says LOG."""
    n = len(tokens)
    return Routing(router_logits=np.stack([LOG] * n),
                   selected_experts=np.array(tokens, dtype=np.uint8),
                   routing_weights=np.full((n, 2, 2), weights, dtype=np.float32))


STARTED = Started(prompt_tokens=3, num_experts_per_tok=2, weighting="raw", seed=7, max_new_tokens=16,
                  notices=("The oldest turn was left out.",))
PREFILLED = (
    Prefilled((10, 11), ("Why", " is"), routing([[0, 1], [0, 1]], [[0, 1], [2, 3]])),
    Prefilled((12,), (" it?",), routing([[0, 1], [1, 2]])),
)
TOKENS = (
    Token(20, "", routing([[0, 1], [3, 0]])),
    Token(21, "é", routing([[1, 0], [3, 1]], weights=(0.4, 0.1))),
)
FINISHED = Finished("length", prompt_tokens=3, new_tokens=2, ttft_s=0.25, decode_s=0.5)
EVENTS = (STARTED, *PREFILLED, *TOKENS, FINISHED)
