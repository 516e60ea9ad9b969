"""Rounds of a contest, and who decides them: a scorer of single answers, or a judge that compares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from alignkit.data.examples import EncodedExample
from alignkit.evaluating.player import Reply
from alignkit.evaluation.judge_biases import biases_of
from alignkit.generation.prompt_reading import Prompt
from alignkit.judges.bouts import Answer, Bout, Verdict, by_score, in_both_orders
from alignkit.judges.judge import Candidates, Judge, Judgement
from alignkit.judges.standings import comparisons_of
from alignkit.modules.collector import Collector
from alignkit.run_dir import Scalar


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """A prompt and what both sides say to it."""

    prompt: Prompt
    ours: Reply
    theirs: Reply


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """A round with its outcome."""

    bout: Bout
    verdict: Verdict | None
    """On our answer; None where a judge's reply could not be read."""
    judgement: Judgement | None = None
    """All that a judge said: of our answer, then theirs."""


Arbiter: TypeAlias = Callable[[Sequence[Round]], list[Decided]]
"""Whoever decides rounds."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerArbiter:
    """The higher score wins."""

    collector: Collector

    def __call__(self, rounds: Sequence[Round]) -> list[Decided]:
        bouts = self._scored(rounds)
        verdicts = in_both_orders(by_score, bouts)
        return [Decided(bout=bout, verdict=verdict) for bout, verdict in zip(bouts, verdicts, strict=True)]

    def _scored(self, rounds: Sequence[Round]) -> list[Bout]:
        """Both sides' answers with their scores, all of them asked of the scorer together."""
        replies = [reply for one in rounds for reply in (one.ours, one.theirs)]
        examples = tuple(dataclasses.replace(reply.tokens, key=place) for place, reply in enumerate(replies))
        scores = self.collector.worth(self.collector.answers(examples))[0].tolist()
        return [bout_of(one, us, them) for one, us, them in zip(rounds, scores[::2], scores[1::2], strict=True)]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeArbiter:
    """What a judge says of both answers, shown in either order."""

    judge: Judge

    def __call__(self, rounds: Sequence[Round]) -> list[Decided]:
        decided = []
        for one, judgement in zip(rounds, self.judge([candidates_of(one) for one in rounds]), strict=True):
            # Where answers were compared, a score is a share of one comparison.
            ours, theirs = (None, None) if judgement.comparisons else judgement.scores
            verdicts = [comparison.verdict for comparison in comparisons_of(judgement)]
            decided.append(Decided(bout=bout_of(one, ours, theirs), verdict=verdicts[0] if verdicts else None, judgement=judgement))
        return decided


def bout_of(one: Round, ours: float | None, theirs: float | None) -> Bout:
    """A round as it is counted, with what both answers are worth."""
    us, them = (
        Answer(text=reply.text, tokens=len(reply.tokens.completion_ids[0]), score=score)
        for reply, score in ((one.ours, ours), (one.theirs, theirs))
    )
    return Bout(prompt=one.prompt.example.prompt, ours=us, theirs=them)


def candidates_of(one: Round) -> Candidates:
    """Both answers to a prompt. A token that joins the prompt's end with an answer's beginning belongs to the answer."""
    sides = [one.ours.tokens, one.theirs.tokens]
    shared = min(len(side.prompt_ids) for side in sides)
    while len({side.prompt_ids[:shared] for side in sides}) > 1:
        shared -= 1
    example = EncodedExample(
        key=0,
        prompt_ids=sides[0].prompt_ids[:shared],
        completion_ids=tuple((*side.prompt_ids[shared:], *side.completion_ids[0]) for side in sides),
    )
    return Candidates(prompt=one.prompt.example.prompt, completions=(one.ours.text, one.theirs.text), example=example)


def judge_facts(decided: Sequence[Decided]) -> dict[str, Scalar]:
    """How well a judge could be read, and what sways it; nothing of a scorer."""
    judgements = [one.judgement for one in decided if one.judgement is not None]
    if not judgements:
        return {}
    biases = biases_of(judgements, [(one.bout.ours.tokens, one.bout.theirs.tokens) for one in decided])
    facts: dict[str, Scalar] = {
        "unread": sum(one.verdict is None for one in decided),
        "replies": sum(one.replies for one in judgements),
        "unread_replies": sum(one.unread for one in judgements),
        "longer_preferred": biases.longer_preferred.value,
    }
    if biases.asked_twice:
        facts |= {"first_preferred": biases.first_preferred.value, "order_decided": biases.flips.value}
    return facts
