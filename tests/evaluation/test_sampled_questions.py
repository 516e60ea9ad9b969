"""A sample of a benchmark holds its groups in proportion, whatever the order of its rows."""

from __future__ import annotations

from collections import Counter

from alignkit.data.questions import Question
from alignkit.evaluation.sampled_questions import in_proportion


def questions(**counts: int) -> list[Question]:
    return [
        Question(prompt=f"{group} {number}", candidates=("yes", "no"), correct=(0,), group=group)
        for group, count in counts.items()
        for number in range(count)
    ]


def test_groups_have_their_shares_and_largest_remainders_the_rest() -> None:
    every = questions(a=100, b=134, c=92, d=47, e=46)  # LLMBar's: shares of 20 are 4.77 6.40 4.39 2.24 2.20
    assert Counter(one.group for one in in_proportion(every, 20)) == {"a": 5, "b": 7, "c": 4, "d": 2, "e": 2}
    for limit in range(1, 60, 7):
        taken = in_proportion(every, limit)
        assert len(taken) == limit
        for group, count in Counter(one.group for one in every).items():
            assert abs(sum(one.group == group for one in taken) - limit * count / len(every)) < 1


def test_the_sample_is_the_same_for_any_order_of_rows_and_keeps_theirs() -> None:
    every = questions(a=30, b=20)
    taken = in_proportion(every, 10)
    assert taken == [one for one in every if one in taken]
    assert {one.digest for one in in_proportion(every[::-1], 10)} == {one.digest for one in taken}
    # Not the first ones.
    assert [one.prompt for one in taken[:6]] != [one.prompt for one in every[:6]]


def test_without_a_limit_or_with_a_large_one_all_are_taken() -> None:
    every = questions(a=3, b=2)
    assert in_proportion(every, None) == in_proportion(every, 5) == in_proportion(every, 99) == every
