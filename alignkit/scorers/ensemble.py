"""`scorer=ensemble`: several heads of another run, which differ where they are not sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.models.heads import Heads
from alignkit.models.loading import load_tokenizer
from alignkit.models.terminal_states import head_inputs
from alignkit.scorers.answer_tokens import AnswerTokens, score_batches
from alignkit.scorers.head import open_trunk
from alignkit.scorers.normalization import UNCHANGED, Normalization
from alignkit.scorers.saved_heads import SavedHead, head_names, saved_head
from alignkit.scorers.scorer import Answers, FrozenTrunk, ModelScorer, Scorer, Scores, Surroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble(ModelScorer):
    """The mean of what several heads of a run say, such as those of `loss=reward_ensemble`, and what each of them says as a part of it
    (Gleave & Irving 2022, arXiv:2203.07472). All read one forward pass of the trunk."""

    path: str
    """The run's directory, which holds `model/` and `heads.json`."""
    heads: list[str]
    """Names of heads, two or more; none names all that the run has."""
    normalized: bool
    """Apply the gain and bias that are stored with each head."""

    def __post_init__(self) -> None:
        if len(self.heads) == 1 or len(set(self.heads)) < len(self.heads):
            raise UserError(f"scorer.heads = {self.heads}; must be two or more different heads, or [] for all. Try scorer.heads=[].")

    def open(self, surroundings: Surroundings) -> Scorer:
        names = self.heads or head_names(self.path)
        if len(names) < 2:
            raise UserError(f"scorer.path = {self.path!r}: has one head, {names[0]}. Type scorer=head, or train loss=reward_ensemble.")
        saved = [saved_head(self.path, name) for name in names]
        if len({one.terminator for one in saved}) > 1:
            raise UserError(f"scorer.heads = {names}: in training completions ended in different tokens. Name those of one kind.")
        tokenizer = load_tokenizer("scorer.path", str(saved[0].run.model))
        trunk, packing, positions = open_trunk(saved[0], surroundings)
        return _EnsembleScorer(
            trunk=trunk,
            members={one.name: _member(one, surroundings, normalized=self.normalized) for one in saved},
            tokens=AnswerTokens(tokenizer, surroundings.tokenizer, terminator=saved[0].terminator, positions=positions),
            packing=packing,
            device=surroundings.device,
        )


def _member(saved: SavedHead, surroundings: Surroundings, *, normalized: bool) -> tuple[Heads, Normalization]:
    heads = saved.load().to(surroundings.device, surroundings.dtype)
    return heads, saved.normalization if normalized else UNCHANGED


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _EnsembleScorer:
    """Heads on one trunk."""

    trunk: FrozenTrunk
    members: Mapping[str, tuple[Heads, Normalization]]
    """By name: each alone, as its file has it."""
    tokens: AnswerTokens
    packing: Packing
    device: torch.device

    @torch.no_grad()
    def __call__(self, answers: Answers) -> Scores:
        said = score_batches(self.tokens(answers), self.packing, self.device, self._scores)
        columns = zip(self.members.items(), said.reshape(len(answers.completions), len(self.members)).unbind(1), strict=True)
        parts = {name: normalization(scores) for (name, (_, normalization)), scores in columns}
        return Scores(total=torch.stack(list(parts.values())).mean(dim=0), parts=parts)

    def _scores(self, batch: PackedBatch) -> Tensor:
        """[C, H], a column a head."""
        layers = tuple(sorted({layer for heads, _ in self.members.values() for layer in heads.layers}))
        attend = any(heads.attend for heads, _ in self.members.values())
        inputs = head_inputs(self.trunk.hidden_layers(batch, layers), layers, batch, with_tokens=attend)
        return torch.stack([heads.scores_of(name, inputs) for name, (heads, _) in self.members.items()], dim=1)
