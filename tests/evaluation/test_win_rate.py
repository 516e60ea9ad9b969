"""Verdicts of judges that do and do not know an order, and the win rate that follows from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from alignkit.evaluation.win_rate import WinRate
from alignkit.judges.bouts import Answer, Bout, Verdict, by_score, in_both_orders

WIN, TIE, LOSS = Verdict.WIN, Verdict.TIE, Verdict.LOSS


def bout(ours: float | None, theirs: float | None, *, tokens: tuple[int, int] = (5, 5)) -> Bout:
    answers = [Answer(text=f"{score}", tokens=count, score=score) for score, count in zip((ours, theirs), tokens, strict=True)]
    return Bout(prompt="p", ours=answers[0], theirs=answers[1])


def rate(bouts: Sequence[Bout], verdicts: Sequence[Verdict]) -> WinRate:
    return WinRate.of(bouts, verdicts, resamples=200, seed=0)


def test_the_higher_score_wins_and_equal_ones_tie() -> None:
    assert by_score([bout(0.1, 0.2), bout(0.2, 0.1), bout(-1.0, -1.0)]) == [LOSS, WIN, TIE]


def test_a_judge_without_an_order_is_believed() -> None:
    bouts = [bout(*pair) for pair in itertools.product((0.0, 1.0, 2.0), repeat=2)]
    assert in_both_orders(by_score, bouts) == by_score(bouts)


def test_a_judge_that_prefers_what_comes_first_says_nothing() -> None:
    bouts = [bout(0.0, 1.0), bout(1.0, 0.0)]
    assert in_both_orders(lambda asked: [WIN] * len(asked), bouts) == [TIE, TIE]
    assert in_both_orders(lambda asked: [LOSS] * len(asked), bouts) == [TIE, TIE]


def test_a_biased_judge_is_believed_where_the_difference_outweighs_its_bias() -> None:
    def judge(asked: Sequence[Bout]) -> list[Verdict]:
        """Adds 1 to whatever it is shown first."""
        return by_score([bout(float(one.ours.text) + 1, float(one.theirs.text)) for one in asked])

    # By 3: told in both orders. By 1/2: the first one wins either way. By 1: a win one way and a tie the other, which is no clear word.
    assert in_both_orders(judge, [bout(3.0, 0.0), bout(0.0, 3.0), bout(0.5, 0.0), bout(1.0, 0.0)]) == [WIN, LOSS, TIE, TIE]


def test_the_rate_counts_ties_half_and_has_wilsons_interval() -> None:
    verdicts = [WIN] * 60 + [TIE] * 20 + [LOSS] * 20
    found = rate([bout(1.0, 0.0)] * 100, verdicts)
    assert (found.wins, found.ties, found.losses) == (60, 20, 20)
    # Wilson's score interval solves (p - 0.7)^2 = z^2 p (1 - p) / n.
    assert found.rate.value == pytest.approx(0.7)
    for end in (found.rate.low, found.rate.high):
        assert (end - 0.7) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 100, rel=1e-5)
    assert found.rate.low < 0.7 < found.rate.high


def test_swapped_sides_have_the_other_rate() -> None:
    generator = np.random.default_rng(1)
    draws = [(generator.integers(0, 4, 2), generator.integers(1, 30, 2)) for _ in range(50)]
    bouts = [bout(*map(float, scores), tokens=tuple(map(int, tokens))) for scores, tokens in draws]
    ours, theirs = rate(bouts, by_score(bouts)), rate(swapped := [one.swapped for one in bouts], by_score(swapped))
    assert ours.rate.value == pytest.approx(1 - theirs.rate.value)
    assert ours.rate.low == pytest.approx(1 - theirs.rate.high)
    assert ours.length_controlled.value == pytest.approx(1 - theirs.length_controlled.value)
    assert ours.scores == tuple(reversed(theirs.scores or ()))
    assert ours.tokens == tuple(reversed(theirs.tokens))


def test_wins_that_length_explains_are_none_at_equal_length() -> None:
    # Our answers are mostly longer, and a judge that only counts tokens prefers them: 30 of 40; at equal length it would not care.
    bouts = [bout(float(10 + longer), 10.0, tokens=(10 + longer, 10)) for longer in (*range(1, 31), *range(-10, 0))]
    found = rate(bouts, by_score(bouts))
    assert found.rate.value == 0.75
    assert abs(found.length_controlled.value - 0.5) < 0.15
    # The same wins without a difference in length are what they are.
    even = [bout(one.ours.score, one.theirs.score) for one in bouts]
    assert rate(even, by_score(even)).length_controlled.value == 0.75


def test_means_are_those_of_both_sides() -> None:
    found = rate([bout(1.0, 0.0, tokens=(4, 8)), bout(0.0, 3.0, tokens=(2, 2))], [WIN, LOSS])
    assert (found.scores, found.tokens) == ((0.5, 1.5), (3.0, 5.0))
    assert rate([bout(None, None)], [TIE]).scores is None, "a judge of pairs scores nothing by itself"


def test_one_verdict_has_a_value_and_wilsons_bounds() -> None:
    found = rate([bout(1.0, 0.0)], [WIN])
    assert (found.rate.value, found.rate.high) == (1.0, 1.0)
    assert found.rate.low == pytest.approx(1 / (1 + 1.959964**2), rel=1e-5)
    assert math.isnan(found.length_controlled.low)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_credits_of_both_sides_sum_to_one(verdict: Verdict) -> None:
    assert verdict.value + verdict.opposite.value == 1
    assert verdict.opposite.opposite is verdict
