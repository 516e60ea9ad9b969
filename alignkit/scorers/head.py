"""`scorer=head`: a head of another run: a reward model, or a direct preference head (arXiv:2405.20053)."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.data.packing import Packing
from alignkit.models.heads import Heads
from alignkit.models.loading import load_tokenizer
from alignkit.models.reference import fingerprint
from alignkit.models.terminal_states import head_inputs
from alignkit.scorers.answer_tokens import AnswerTokens, score_batches
from alignkit.scorers.normalization import UNCHANGED, Normalization
from alignkit.scorers.own_model import load_frozen, positions_of
from alignkit.scorers.saved_heads import SavedHead, saved_head
from alignkit.scorers.scorer import Answers, FrozenTrunk, ModelScorer, Scorer, Scores, Surroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Head(ModelScorer):
    """What a head that a run has trained says of the completion's last token, as it was trained.

    The run's model is loaded, unless a frozen model of the run that scores has the same weights: then the head reads that one, and
    there is no second model in memory.
    """

    path: str
    """The run's directory, which holds `model/` and `heads.json`."""
    head: str | None
    """The head's name; null names the only one."""
    normalized: bool
    """Apply the gain and bias that are stored with the head."""

    def open(self, surroundings: Surroundings) -> Scorer:
        saved = saved_head(self.path, self.head)
        heads = saved.load().to(surroundings.device, surroundings.dtype)
        tokenizer = load_tokenizer("scorer.path", str(saved.run.model))
        trunk, packing, positions = open_trunk(saved, surroundings)
        return _HeadScorer(
            trunk=trunk,
            heads=heads,
            tokens=AnswerTokens(tokenizer, surroundings.tokenizer, terminator=saved.terminator, positions=positions),
            packing=packing,
            device=surroundings.device,
            normalization=saved.normalization if self.normalized else UNCHANGED,
        )


def open_trunk(saved: SavedHead, surroundings: Surroundings) -> tuple[FrozenTrunk, Packing, int | None]:
    """What the head reads, how examples are packed for it, and how many positions it has."""
    backbone = load_frozen("scorer.path", str(saved.run.model), surroundings)
    packing, positions = surroundings.packing(backbone), positions_of(backbone)
    # Compared as loaded: a folder's files do not say what its weights are in another type, or with an adapter merged.
    if surroundings.trunk is not None and fingerprint(backbone) == surroundings.trunk_fingerprint:
        del backbone
        gc.collect()  # transformers' models are in cycles
        return surroundings.trunk, packing, positions
    return backbone.to(surroundings.device), packing, positions


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _HeadScorer:
    """A head on a trunk."""

    trunk: FrozenTrunk
    heads: Heads
    """One head."""
    tokens: AnswerTokens
    packing: Packing
    device: torch.device
    normalization: Normalization

    @torch.no_grad()
    def __call__(self, answers: Answers) -> Scores:
        scores = score_batches(self.tokens(answers), self.packing, self.device, self._scores)
        return Scores(total=self.normalization(scores))

    def _scores(self, batch: PackedBatch) -> Tensor:
        (name,) = self.heads
        hidden = self.trunk.hidden_layers(batch, self.heads.layers)
        return self.heads.scores_of(name, head_inputs(hidden, self.heads.layers, batch, with_tokens=self.heads.attend))
