"""What is known of the loaded model without touching it: plain numbers for the page, the plots and the shell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """Shape, size and home of the loaded model.

    total_params counts every parameter once (tied embeddings once). context_length in tokens.
    notice: why this model is served instead of another, or what it cannot do; "" if nothing is to be said.
    stands_in_for: the hub id of the model that would be served if there were a GPU; "" if this is the one.
    """

    name: str          # as a visitor knows it: "olmoe-tiny" or a hub id
    num_layers: int
    num_experts: int
    default_k: int     # num_experts_per_tok of the checkpoint
    hidden_size: int
    intermediate_size: int  # of one expert
    num_heads: int
    vocab_size: int
    context_length: int
    norm_topk_prob: bool
    total_params: int
    dtype: str         # "float32", "bfloat16" or "float16", or "int8 weights, bfloat16"
    device: str        # for people: "CPU", "NVIDIA H200"
    backend: str       # how it is computed, e.g. "PyTorch"
    has_chat_template: bool
    notice: str = ""
    stands_in_for: str = ""
    tells_routing: bool = True  # whether it can be seen which experts worked; another's server may not tell

    @property
    def expert_params(self) -> int:
        """Parameters of one expert: the gate, up and down matrices of a SwiGLU."""
        return 3 * self.hidden_size * self.intermediate_size

    def active_params(self, k: float) -> int:
        """Parameters that take part in one token at k experts a layer (a mean, if k varies): all but those left out."""
        return round(self.total_params - (self.num_experts - k) * self.num_layers * self.expert_params)
