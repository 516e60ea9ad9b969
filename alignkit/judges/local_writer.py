"""A language model on this machine that is asked in words and writes its reply.   Q questions"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.judges.local_model import UNBOUNDED, LocalModel
from alignkit.judges.writer import Reply
from alignkit.sampling.sampler import Distribution, Sample
from alignkit.sampling.trunk_sampler import TrunkSampler

NEXT_TURN = "\n\nHuman:"
"""Where a model without a chat template goes on with the other speaker: its reply has ended."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LocalWriter:
    """A `Writer`. The likeliest reply, token by token, or at a temperature one whose random numbers are a function of the seed and the
    question: the same question has the same reply, whatever else is asked."""

    model: LocalModel
    max_tokens: int
    """Of the longest reply."""
    temperature: float
    """0 is the likeliest reply."""
    seed: int
    tokens: int
    """Positions whose keys and values are held at once."""

    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        read = self.model.read(questions, ("a",), self.max_tokens)
        asked = {place: one for place, one in enumerate(read) if isinstance(one, PreferenceExample)}
        ids = [self.model.encoder.encode_prompt(one, UNBOUNDED) for one in asked.values()]
        written = dict(zip(asked, self._written(ids, [questions[place] for place in asked]), strict=True))
        return [
            self._reply(written[place]) if place in written else Reply(text="", finished=False, refused=str(one))
            for place, one in enumerate(read)
        ]

    def _written(self, ids: Sequence[Sequence[int]], questions: Sequence[tuple[Message, ...]]) -> list[Sample]:
        greedy = self.temperature == 0
        sampler = TrunkSampler(
            self.model.backbone,
            terminator=self.model.terminator,
            max_tokens=self.max_tokens,
            distribution=Distribution(top_k=1) if greedy else Distribution(temperature=self.temperature),
            tokens=self.tokens,
        )
        if greedy:
            return [sample for (sample,) in sampler(ids, samples=1, seed=0)] if ids else []
        # One by one: the sampler's random numbers are a function of a question's place among those of a call.
        seeds = [seed_of(question, self.seed) for question in questions]
        return [sampler([own], samples=1, seed=seed)[0][0] for own, seed in zip(ids, seeds, strict=True)]

    def _reply(self, sample: Sample) -> Reply:
        encoder = self.model.encoder
        text = str(encoder.tokenizer.decode(list(sample.ids), skip_special_tokens=True))
        finished = sample.ids[-1] == self.model.terminator
        if not encoder.uses_template and NEXT_TURN in text:
            text, finished = text[: text.index(NEXT_TURN)], True
        return Reply(text=text, finished=finished)


def seed_of(question: Sequence[Message], seed: int) -> int:
    """A number that is a function of both."""
    words = json.dumps([seed, [asdict(turn) for turn in question]], ensure_ascii=False)
    return int(hashlib.sha256(words.encode()).hexdigest()[:15], 16)
