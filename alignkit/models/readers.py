"""What a head may learn to read before its pooler: which layers of the trunk, and which tokens of a completion.

C completions   N completion tokens   L layers   D hidden width
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn


@final
class LayerMixture(nn.Module):
    """sum_l softmax(w)_l h_l

    w starts at zero: the mean of the layers. Peters et al. 2018 (arXiv:1802.05365), eq. 1, without its scale.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, states: Tensor) -> Tensor:
        """[*, D] in the type of the states [*, L, D]."""
        with torch.autocast(states.device.type, enabled=False):
            shares = self.weights.to(torch.promote_types(states.dtype, torch.float32)).softmax(0)
            return (shares[:, None] * states).sum(-2).to(states.dtype)


@final
class TokenAttention(nn.Module):
    """h + V sum_n a_n t_n,   a = softmax_n(t_n . Q h / sqrt(D)) over the completion's own tokens t_n, the last, h, among them

    Attention from the last token (Vaswani et al. 2017, arXiv:1706.03762, eq. 1) with one head as wide as the state: its key map is
    part of Q, its value and output maps are V, so that no token but the last meets a matrix. V starts at zero: a fresh head scores
    what it would score without attention.
    """

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.query.weight, std=std)
        nn.init.zeros_(self.value.weight)

    def forward(self, terminal: Tensor, tokens: Tensor, completion_index: Tensor) -> Tensor:
        """[C, D] from the states [C, D] at last tokens and those [N, D] of all tokens; `completion_index` [N] as in a batch."""
        query = self.query(terminal)
        with torch.autocast(tokens.device.type, enabled=False):
            wide = torch.promote_types(tokens.dtype, torch.float32)
            keys = tokens.to(wide)
            scores = (query.to(wide)[completion_index] * keys).sum(-1) * keys.shape[1] ** -0.5  # [N]
            shares = softmax_by_completion(scores, completion_index, len(terminal))
            pooled = keys.new_zeros(terminal.shape).index_add(0, completion_index, shares[:, None] * keys)
        read: Tensor = terminal + self.value(pooled.to(terminal.dtype))
        return read


def softmax_by_completion(scores: Tensor, completion_index: Tensor, completions: int) -> Tensor:
    """Shares [N] that sum to one over the tokens of each completion, from scores [N]."""
    lowest = scores.new_full((completions,), float("-inf"))
    largest = lowest.scatter_reduce(0, completion_index, scores.detach(), "amax")
    powers = (scores - largest[completion_index]).exp()
    return powers / powers.new_zeros(completions).index_add(0, completion_index, powers)[completion_index]
