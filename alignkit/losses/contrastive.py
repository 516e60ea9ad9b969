"""A self-supervised loss on hidden states: prompts near their best completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import StatesLoss
from alignkit.losses.outputs import Ranking


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Contrastive(StatesLoss):
    """InfoNCE with a prompt's last state as anchor, its best completion as the positive and its others as negatives.

        z_k = cos(state of the prompt, state of completion k) / temperature
        L   = -log( sum_{k of rank 0} exp z_k / sum_k exp z_k )                                  per example, nats

    van den Oord et al. 2018 (arXiv:1807.03748), eq. 4, on temperature-scaled cosines as in SimCLR (arXiv:2002.05709), eq. 1.
    The negatives are the example's own, not those of the batch, which answer other prompts and are told apart by their topic.
    Completions that are tied for the best are positives together; where there is no other, as with one completion, L is 0.
    """

    formula: ClassVar[str] = "L = -log(sum of exp z over the best completions / sum over all), z = cos(prompt, completion) / temperature"
    optimum: ClassVar[str] = "cosine with the prompt: 1 for the best completions, -1 for the others"

    temperature: float
    """> 0: small ones look at the nearest negative only. SimCSE (arXiv:2104.08821), on states of sentences, uses 0.05."""

    def __post_init__(self) -> None:
        check_range(
            "loss.temperature", self.temperature, above=0.0, hint="It divides cosines, small ones sharpen the comparison. Try 0.05."
        )

    def __call__(self, prompts: Tensor, completions: Tensor, ranking: Ranking) -> Tensor:
        """Raises ValueError if the states are not those of the ranking's examples and completions."""
        if len(prompts) != ranking.examples or len(completions) != len(ranking.ranks):
            raise ValueError(
                f"states of {len(prompts)} prompts and {len(completions)} completions for a ranking of {ranking.examples} examples "
                f"and {len(ranking.ranks)} completions"
            )
        wide = torch.promote_types(completions.dtype, torch.float32)
        anchors = prompts.to(wide).index_select(0, ranking.example_index)  # [C, D]
        similarities = F.cosine_similarity(anchors, completions.to(wide), dim=-1) / self.temperature  # [C]
        own = ranking.example_index == torch.arange(ranking.examples, device=completions.device)[:, None]  # [E, C]
        best = ranking.ranks == 0
        # The lowest finite number: the gradient of a logsumexp of -inf alone is NaN, which only the mask would keep away.
        lowest = torch.finfo(wide).min
        positives, negatives = (similarities.masked_fill(~(own & side), lowest).logsumexp(-1) for side in (best, ~best))  # [E]
        return -F.logsigmoid(positives - negatives)
