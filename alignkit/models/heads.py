"""Heads: scores read from the trunk's hidden states where a completion ends (arXiv:2405.20053).

C completions   N completion tokens   L layers   D hidden width of the trunk
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.models.poolers import POOLERS
from alignkit.models.readers import LayerMixture, TokenAttention
from alignkit.models.terminal_states import HeadInputs


@final
class RewardHead(nn.Module):
    """A pooler and a linear map without bias to one unbounded score; before them, where the settings say so, standardised states, a
    mixture of layers and attention to the completion's tokens."""

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
        # Drawn last, so that pooler and score start from the same weights whatever the head reads.
        self.mixture = LayerMixture(len(settings.layers)) if len(settings.layers) > 1 else None
        self.attention = TokenAttention(hidden_width, std) if settings.tokens == "attention" else None
        if settings.standardize:
            self.register_buffer("shift", torch.zeros(len(settings.layers), hidden_width))
            self.register_buffer("scale", torch.ones(len(settings.layers), hidden_width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [C] float32 of hidden states [C, D]."""
        # The map to the score is float32 in every precision: a bf16 score resolves 1/128 at 1.
        pooled = self.pooler(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            wide = torch.promote_types(pooled.dtype, torch.float32)
            return F.linear(pooled.to(wide), self.score.weight.to(wide))[:, 0]

    def read(self, inputs: HeadInputs) -> Tensor:
        """[C, D]: the one state of each completion that is pooled and scored."""
        places = [inputs.layers.index(layer) for layer in self.settings.layers]
        terminal = self._mix(self.standardized(inputs.terminal[:, places]))
        if self.attention is None:
            return terminal
        assert inputs.tokens is not None, "this head attends to tokens"
        read: Tensor = self.attention(terminal, self._mix(self.standardized(inputs.tokens[:, places])), inputs.completion_index)
        return read

    def standardized(self, states: Tensor) -> Tensor:
        """States [*, L, D] of its layers with the mean and the deviation that were measured taken out; as they are where none were."""
        if not self.settings.standardize:
            return states
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        return ((states.to(shift.dtype) - shift) / scale).to(states.dtype)

    @torch.no_grad()
    def measure(self, states: Tensor) -> None:
        """Take mean and deviation of each dimension from states [M, L, D], M >= 2. A dimension that does not vary is only shifted."""
        wide = states.to(torch.float64)
        deviation = wide.std(0, correction=0)
        self.get_buffer("shift").copy_(wide.mean(0))
        self.get_buffer("scale").copy_(torch.where(deviation > 0, deviation, 1.0))

    def _mix(self, states: Tensor) -> Tensor:
        if self.mixture is None:
            return states[:, 0]
        mixed: Tensor = self.mixture(states)
        return mixed


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

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the trunk that any of the heads reads, as `Backbone.hidden_layers` counts them."""
        return tuple(sorted({layer for name in self for layer in self.head(name).settings.layers}))

    @property
    def attend(self) -> bool:
        """Whether any of the heads reads all tokens of a completion."""
        return any(self.head(name).attention is not None for name in self)

    def scores(self, name: str, states: Tensor) -> Tensor:
        """Scores [C] of one head that reads nothing else, from the hidden states [C, D] where completions end."""
        assert self.head(name).settings.reads_terminal_states, f"head {name!r} reads more than that: scores_of"
        head = self.head(name)
        scores: Tensor = head(head.standardized(states[:, None])[:, 0])
        return scores

    def scores_of(self, name: str, inputs: HeadInputs) -> Tensor:
        """Scores [C] of one head, whatever it reads."""
        head = self.head(name)
        scores: Tensor = head(head.read(inputs))
        return scores

    def matrices(self, name: str) -> tuple[Tensor, ...]:
        """The weight matrices [out, in] of one head's pooler, none for `identity`."""
        return tuple(module.weight for module in self.head(name).pooler.modules() if isinstance(module, nn.Linear))
