"""Poolers: what stands between a hidden state and a head's linear map (arXiv:2405.20053).   C completions   D hidden width

Each maps [C, D] to [C, D].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.loss_settings import HeadSettings


@final
class IdentityPooler(nn.Module):
    """dropout(h)"""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(hidden)
        return pooled


@final
class BertPooler(nn.Module):
    """dropout(tanh(W h + b))"""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(torch.tanh(self.map(hidden)))
        return pooled


@final
class T5Pooler(nn.Module):
    """tanh(W dropout(h) + b)"""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.map(self.dropout(hidden)))


class SwiGLU(nn.Module):
    """V (a * silu(g)) with [a, g] = U h; the inner width is that of the usual SwiGLU feed-forward layer, 8/3 of the outer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 8 * width // 3
        self.up = nn.Linear(width, 2 * inner)
        self.down = nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        value, gate = self.up(hidden).chunk(2, dim=-1)
        mapped: Tensor = self.down(value * F.silu(gate))
        return mapped


@final
class SwiGLUBertPooler(nn.Module):
    """dropout(tanh(SwiGLU(h)))"""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.map = SwiGLU(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(torch.tanh(self.map(hidden)))
        return pooled


@final
class SwiGLUT5Pooler(nn.Module):
    """dropout(tanh(SwiGLU(dropout(h))))"""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.map = SwiGLU(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(torch.tanh(self.map(self.dropout(hidden))))
        return pooled


POOLERS: Mapping[str, type[IdentityPooler | BertPooler | T5Pooler | SwiGLUBertPooler | SwiGLUT5Pooler]] = {
    "identity": IdentityPooler,
    "bert": BertPooler,
    "t5": T5Pooler,
    "swiglu_bert": SwiGLUBertPooler,
    "swiglu_t5": SwiGLUT5Pooler,
}
assert tuple(POOLERS) == HeadSettings.POOLERS
