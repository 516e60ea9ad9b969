"""Heads: scores read from the trunk's hidden state at a completion's last token (arXiv:2405.20053).

C completions   D hidden width of the trunk
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.errors import UserError
from alignkit.settings import HeadSettings


@final
class RewardHead(nn.Module):
    """A pooler and a linear map without bias to one unbounded score."""

    def __init__(self, hidden_width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pooler = POOLERS[settings.pooler](hidden_width, settings.dropout)
        self.score = nn.Linear(hidden_width, 1, bias=False)
        std = (hidden_width + 1) ** -0.5 if settings.init_std is None else settings.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [C] float32 of hidden states [C, D]."""
        # The map to the score is float32 in every precision: a bf16 score resolves 1/128 at 1.
        pooled = self.pooler(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            wide = torch.promote_types(pooled.dtype, torch.float32)
            return F.linear(pooled.to(wide), self.score.weight.to(wide))[:, 0]


@final
class Heads(nn.ModuleDict):
    """Named heads on one trunk."""

    def __init__(self, hidden_width: int, settings: Mapping[str, HeadSettings]) -> None:
        super().__init__()
        for name, head in settings.items():
            try:
                self[name] = RewardHead(hidden_width, head)
            except KeyError as error:  # torch keeps modules under attribute names
                raise UserError(f"loss.head.name = {name!r}: cannot name a head ({error.args[0]}). Try loss.head.name=reward.") from None

    def head(self, name: str) -> RewardHead:
        """One of the heads."""
        head = self[name]
        assert isinstance(head, RewardHead)
        return head

    def scores(self, name: str, states: Tensor) -> Tensor:
        """Scores [C] of one head, from the hidden states [C, D] where completions end."""
        scores: Tensor = self.head(name)(states)
        return scores


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
