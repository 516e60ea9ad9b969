"""`scorer=likelihood`: how likely completions are under a language model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import final

import torch

from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import LiveReference
from alignkit.scorers.answer_tokens import AnswerTokens, score_batches
from alignkit.scorers.own_model import load_frozen, positions_of, run_of, summed_logps
from alignkit.scorers.scorer import Answers, ModelScorer, Scorer, Scores, Surroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihood(ModelScorer):
    """The log-probability of a completion under a language model, nats:

        log p(completion | prompt) = sum over its tokens        or that divided by their number

    A completion's end counts as one of its tokens where it was not cut. Scores compare completions of one prompt; sums prefer short ones.
    """

    path: str | None
    """A run, a folder, a hub id or builtin:tiny; null is the model that the answers are judged for, where a command has one."""
    per_token: bool
    """Mean rather than sum."""

    def open(self, surroundings: Surroundings) -> Scorer:
        if self.path is None:
            if not isinstance(surroundings.trunk, LiveReference):
                raise UserError("scorer.path is missing: there is no model here that stays as it is. Type scorer.path=FOLDER.")
            backbone, tokenizer = surroundings.trunk.backbone, surroundings.tokenizer
        else:
            run = run_of(self.path)
            found = locate("scorer.path", self.path if run is None else str(run.model))
            config, tokenizer = load_config("scorer.path", found), load_tokenizer("scorer.path", found)
            check_fit("scorer.path", config, tokenizer, 0)
            backbone = load_frozen("scorer.path", found, surroundings).to(surroundings.device)
        return _LikelihoodScorer(
            model=backbone,
            packing=surroundings.packing(backbone),
            tokens=AnswerTokens(tokenizer, surroundings.tokenizer, terminator=None, positions=positions_of(backbone)),
            device=surroundings.device,
            per_token=self.per_token,
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _LikelihoodScorer:
    """An open model."""

    model: Backbone
    packing: Packing
    tokens: AnswerTokens
    device: torch.device
    per_token: bool

    @torch.no_grad()
    def __call__(self, answers: Answers) -> Scores:
        examples = self.tokens(answers)
        sums = score_batches(examples, self.packing, self.device, partial(summed_logps, self.model))
        if not self.per_token:
            return Scores(total=sums)
        return Scores(total=sums / torch.tensor([len(ids) for example in examples for ids in example.completion_ids]))
