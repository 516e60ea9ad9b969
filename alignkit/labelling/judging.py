"""Asking: what a judge says of answers, or what their critic makes of them.   M answers to one prompt"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch

from alignkit.generation.answering import products
from alignkit.judges.judge import Candidates, Judge, Judgement
from alignkit.judges.principles import read_constitution
from alignkit.judges.revising import Reviser, Revision
from alignkit.judges.writer import WritingJudgeKind
from alignkit.label_settings import REVISIONS
from alignkit.labelling.answering import Answered
from alignkit.labelling.bench import Bench
from alignkit.labelling.judged import JudgedPrompt, Revised


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What was said of the answers to one prompt."""

    judgement: Judgement
    revisions: tuple[Revised, ...] = ()
    """M, of a critic."""


Asking: TypeAlias = Callable[[Sequence[Candidates]], list[Said]]
"""Whoever is asked: of each prompt what is said of its answers."""


def open_asking(bench: Bench) -> Asking:
    """The judge, ready, or the critic where answers are to be revised.

    Raises:
        UserError: when it cannot be had.
    """
    ground = bench.ground
    own, kind = ground.own, ground.judge
    if own.form != REVISIONS:
        return judging(kind.open(bench.surroundings))
    assert isinstance(kind, WritingJudgeKind)
    return revising(
        Reviser(
            # Twice as long as answers may be: the revision of one that was cut has room to end.
            writer=kind.open_writer(bench.surroundings, max_tokens=2 * ground.settings.rollout.max_tokens),
            constitution=read_constitution("constitution", own.constitution),
            rounds=own.revision_rounds,
            seed=ground.settings.seed,
        )
    )


def judging(judge: Judge) -> Asking:
    """A judge."""

    def ask(asked: Sequence[Candidates]) -> list[Said]:
        return [Said(judgement=judgement) for judgement in judge(asked)]

    return ask


def revising(reviser: Reviser) -> Asking:
    """A critic, who gives no scores."""

    def ask(asked: Sequence[Candidates]) -> list[Said]:
        prompts = [one.prompt for one in asked for _ in one.completions]
        revisions = iter(reviser(prompts, [text for one in asked for text in one.completions]))
        return [said_by_critic([next(revisions) for _ in one.completions]) for one in asked]

    return ask


def said_by_critic(revisions: Sequence[Revision]) -> Said:
    """What a critic has made of the answers to one prompt; critiques and revisions that could not be read are counted."""
    reasons: Counter[str] = Counter()
    for one in revisions:
        reasons.update(one.unread)
    judgement = Judgement(
        scores=(None,) * len(revisions),
        replies=sum(sum(one.asked.values()) for one in revisions),
        unread=reasons.total(),
        reasons=dict(reasons),
    )
    return Said(
        judgement=judgement,
        revisions=tuple(
            Revised(
                final=None if one.final is None else joined(one.first, one.final),
                principles=one.principles,
                critiques=one.critiques,
                unread=tuple(reason for reason, count in one.unread.items() for _ in range(count)),
            )
            for one in revisions
        ),
    )


def joined(first: str, final: str) -> str:
    """A revision with the white space with which the first answer is joined to its prompt."""
    return first[: len(first) - len(first.lstrip())] + final.strip()


@torch.no_grad()
def judged_batch(bench: Bench, ask: Asking, answered: Sequence[Answered]) -> list[JudgedPrompt]:
    """What is said of the answers to some prompts, and what the gold scorer says where there is one. Those with too few answers to have a
    label are not asked about."""
    fewest = max(1, bench.ground.own.fewest_answers)
    several = [one for one in answered if len(one.candidates.completions) >= fewest]
    examples = [one.candidates.example for one in several]
    with products(bench.ground.settings, bench.device):
        said = iter(ask([one.candidates for one in several]) if several else ())
        gold = iter(bench.scored(bench.gold, examples)[0] if bench.gold is not None and examples else ())
    judged = []
    for one in answered:
        count = len(one.candidates.completions)
        if count < fewest:
            judged.append(judged_prompt(one, Said(judgement=Judgement(scores=(None,) * count)), None))
        else:
            judged.append(judged_prompt(one, next(said), None if bench.gold is None else tuple(next(gold) for _ in range(count))))
    return judged


def judged_prompt(answered: Answered, said: Said, gold: tuple[float, ...] | None) -> JudgedPrompt:
    """The record of a prompt, its answers, and what was said of them."""
    return JudgedPrompt(
        prompt=answered.candidates.prompt,
        place=answered.place,
        completions=answered.candidates.completions,
        lengths=tuple(map(len, answered.candidates.example.completion_ids)),
        finished=answered.finished,
        origins=answered.origins,
        drawn=answered.drawn,
        tokens=answered.tokens,
        judgement=said.judgement,
        revisions=said.revisions,
        gold=gold,
    )
