"""Which samples are kept to train on, as rows that `dataset=local` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from alignkit.generate_settings import BEST, PAIRS, QUANTILE, RSO, GenerateSettings
from alignkit.generation.answered import AnsweredPrompt
from alignkit.rejection import above_quantile, rejection_sample


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A sample to imitate, or a pair of samples."""

    answered: AnsweredPrompt
    chosen: int
    rejected: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the sample to imitate was cut, so that training on it teaches to stop there."""
        return not self.answered.finished(self.chosen)

    @property
    def is_of_use(self) -> bool:
        """Whether training could read it: no text is blank or has the character NUL, and a pair differs in text and score."""
        texts, scores = self.answered.completions, self.answered.known_scores
        if any("\0" in texts[place] for place in (self.chosen, self.rejected) if place is not None):
            return False
        if self.rejected is None:
            return bool(texts[self.chosen].strip())
        chosen, rejected = texts[self.chosen].strip(), texts[self.rejected].strip()
        return bool(chosen and rejected) and chosen != rejected and scores[self.chosen] > scores[self.rejected]

    def row(self) -> dict[str, Any]:
        """`{"prompt", "chosen"}`, of a pair with `rejected` and the scores of both as their ratings."""
        scores, texts = self.answered.known_scores, self.answered.completions
        row: dict[str, Any] = {"prompt": self.answered.asked, "chosen": texts[self.chosen]}
        if self.rejected is None:
            return row
        ratings = {"chosen_rating": scores[self.chosen], "rejected_rating": scores[self.rejected]}
        return row | {"rejected": texts[self.rejected]} | ratings


@final
class Keeper:
    """Keeps samples as `keep` says. What training could not read is left out and counted."""

    def __init__(self, own: GenerateSettings, *, seed: int) -> None:
        self._own = own
        self._generator = torch.Generator().manual_seed(seed)
        self._each = {BEST: best, PAIRS: pair, RSO: self.accepted}.get(own.keep)
        self.counts = Counter[str]()
        """`kept` samples or pairs, those of them whose sample to imitate was cut, `kept_cut`, and those that were `left_out`."""

    def of_one(self, answered: AnsweredPrompt) -> list[Kept]:
        """What is kept of a prompt's samples, where that does not depend on other prompts."""
        return self._of_use(self._each(answered)) if self._each is not None else []

    def of_all(self, answered: Sequence[AnsweredPrompt]) -> list[Kept]:
        """What is kept of the samples of all prompts, where it depends on all of them."""
        return self._of_use(above(answered, self._own.kept_quantile)) if self._own.keep == QUANTILE and answered else []

    def accepted(self, answered: AnsweredPrompt) -> list[Kept]:
        """Statistical rejection sampling: pairs of the best sample that it accepts with each of the others, in the order of acceptance."""
        scores = answered.known_scores
        count = self._own.accepted(len(scores))
        places: list[int] = rejection_sample(torch.tensor(scores), self._own.acceptance_beta, count, self._generator).tolist()
        first = max(places, key=scores.__getitem__)
        return [Kept(answered=answered, chosen=first, rejected=place) for place in places if place != first]

    def _of_use(self, kept: list[Kept]) -> list[Kept]:
        usable = [one for one in kept if one.is_of_use]
        self.counts.update(kept=len(usable), kept_cut=sum(one.is_cut for one in usable), left_out=len(kept) - len(usable))
        return usable


def best(answered: AnsweredPrompt) -> list[Kept]:
    """The best sample of a prompt: what RAFT trains on."""
    return [Kept(answered=answered, chosen=answered.best)]


def pair(answered: AnsweredPrompt) -> list[Kept]:
    """The best and the worst sample of a prompt."""
    return [Kept(answered=answered, chosen=answered.best, rejected=answered.worst)]


def above(answered: Sequence[AnsweredPrompt], quantile: float) -> list[Kept]:
    """The distinct samples above a quantile of all scores, in their order: rejection-sampling fine-tuning."""
    samples = [Kept(answered=one, chosen=sample) for one in answered for sample in range(len(one.completions))]
    scores = torch.tensor([sample.answered.known_scores[sample.chosen] for sample in samples], dtype=torch.float64)
    keys = [(sample.answered.prompt, sample.answered.completions[sample.chosen]) for sample in samples]
    return [samples[place] for place in above_quantile(scores, keys, quantile).tolist()]
