"""What sways a judge, counted by hand, and what people's labels say of one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignkit.evaluation.judge_biases import biases_of
from alignkit.evaluation.judge_results import JudgeResult, verdict_on
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement

WIN, TIE, LOSS = Verdict.WIN, Verdict.TIE, Verdict.LOSS


def asked(straight: Verdict | None, swapped: Verdict | None) -> Judgement:
    return Judgement(
        scores=(None, None),
        comparisons=(Comparison(first=0, second=1, straight=straight, swapped=swapped),),
        replies=2,
        unread=(straight is None) + (swapped is None),
        reasons={"no_verdict": (straight is None) + (swapped is None)},
    )


JUDGEMENTS = [
    asked(WIN, WIN),
    asked(LOSS, LOSS),
    asked(WIN, LOSS),  # whichever is shown first
    asked(LOSS, WIN),  # whichever is shown second
    asked(WIN, TIE),
    asked(TIE, TIE),
    asked(None, WIN),
]


def test_what_the_order_does_is_counted() -> None:
    found = biases_of(JUDGEMENTS, [(5, 5)] * 7)
    assert (found.comparisons, found.read, found.asked_twice, found.ties) == (7, 6, 6, 4)
    assert (found.flipped_to_first, found.flipped_to_second, found.wavered) == (1, 1, 1)
    assert found.flips.value == 3 / 6
    # Shown first and preferred: WIN as it stands, LOSS when swapped. Of the unread pair one order is known: second shown, preferred.
    assert (found.shown_first, found.shown) == (1 + 1 + 2 + 0 + 1, 2 + 2 + 2 + 2 + 1 + 0 + 1)
    assert math.isnan(found.longer_preferred.value)
    assert math.isnan(found.correlation)


def test_a_judge_that_always_says_the_first_is_wholly_swayed() -> None:
    found = biases_of([asked(WIN, LOSS)] * 3, [(3, 9)] * 3)
    assert (found.first_preferred.value, found.flips.value, found.ties) == (1.0, 1.0, 3)
    assert found.decided == 0


def test_scores_know_no_order() -> None:
    found = biases_of([Judgement(scores=(2.0, 1.0, 1.0)), Judgement(scores=(None, 1.0))], [(9, 4, 6), (1, 2)])
    assert (found.comparisons, found.read, found.ties, found.asked_twice, found.shown) == (4, 3, 1, 0, 0)
    assert math.isnan(found.first_preferred.value)
    assert (found.longer, found.decided) == (2, 2)


def test_a_vote_knows_no_order_whatever_its_members_do() -> None:
    vote = Judgement(scores=(1.0, 0.0), comparisons=asked(WIN, WIN).comparisons, by_judge={"a": asked(WIN, LOSS)})
    assert biases_of([vote], [(1, 2)]).asked_twice == 0


def test_length_is_measured_against_what_people_do() -> None:
    """The judge takes the longer one thrice of four; people twice of the three where that is known, as does the judge."""
    judgements = [asked(WIN, WIN), asked(WIN, WIN), asked(LOSS, LOSS), asked(LOSS, LOSS), asked(TIE, TIE)]
    lengths = [(9, 3), (9, 3), (2, 8), (8, 2), (9, 1)]
    found = biases_of(judgements, lengths, [0, 1, None, 0, 0])
    assert (found.longer, found.decided) == (3, 4)
    assert (found.longer_labelled, found.longer_of_people, found.labelled) == (2, 2, 3)
    assert found.beyond_people == 0.0
    assert biases_of(judgements, lengths, [1, 1, 0, 0, 0]).beyond_people == 3 / 4 - 1 / 4
    assert math.isnan(biases_of(judgements, lengths).beyond_people)


def test_the_correlation_is_pearsons_over_both_sides_of_each_comparison() -> None:
    generator = np.random.default_rng(1)
    scores, lengths = generator.normal(size=(30, 2)), generator.integers(1, 50, size=(30, 2))
    found = biases_of([Judgement(scores=tuple(pair)) for pair in scores.tolist()], lengths.tolist())
    credit, gap = np.sign(scores[:, 0] - scores[:, 1]), lengths[:, 0] - lengths[:, 1]
    expected = np.corrcoef(np.concatenate([credit, -credit]), np.concatenate([gap, -gap]))[0, 1]
    assert found.correlation == pytest.approx(expected)


def test_swapping_all_answers_changes_nothing_but_which_is_first() -> None:
    def turned(one: Comparison) -> Comparison:
        # On the other answer, which stands first now: what was the straight order is the swapped one.
        straight, swapped = (None if verdict is None else verdict.opposite for verdict in (one.swapped, one.straight))
        return Comparison(first=0, second=1, straight=straight, swapped=swapped)

    lengths = [(9, 3), (2, 8), (5, 1), (4, 6), (3, 3), (2, 9), (8, 1)]
    swapped = [Judgement(scores=(None, None), comparisons=(turned(one.comparisons[0]),)) for one in JUDGEMENTS]
    assert biases_of(swapped, [pair[::-1] for pair in lengths]) == biases_of(JUDGEMENTS, lengths)


# What a judge is worth


def test_accuracy_counts_ties_as_halves_and_leaves_out_what_was_not_read() -> None:
    result = JudgeResult.of(JUDGEMENTS, [0, 0, 0, 1, 1, 0, 0], [(1, 2)] * 7)
    assert (result.pairs, result.wins, result.ties, result.losses, result.read) == (7, 1, 4, 1, 6)
    assert result.accuracy.value == (1 + 4 / 2) / 6
    assert result.decided_accuracy.value == 1 / 2
    assert result.tied.value == 4 / 6
    assert (result.unread.value, result.replies, result.reasons) == (1 / 14, 14, {"no_verdict": 1})


def test_a_verdict_is_on_either_of_two_answers() -> None:
    assert verdict_on(asked(WIN, WIN), 0) is WIN
    assert verdict_on(asked(WIN, WIN), 1) is LOSS
    assert verdict_on(asked(None, WIN), 0) is None
    assert verdict_on(Judgement(scores=(1.0, 2.0)), 0) is LOSS
    assert verdict_on(Judgement(scores=(1.0, None)), 0) is None
