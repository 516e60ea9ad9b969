"""Packing loses nothing, respects its bounds, and gives the same rows every time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.packing import Packing, group_rows, level_rows, pack_rows

LENGTHS = st.lists(st.integers(1, 40), max_size=25)
CAPACITY = st.integers(1, 60)
TOKENS = st.integers(1, 200)


def fewest_rows(lengths: tuple[int, ...], capacity: int) -> int:
    """The optimum, by trying every row for every item."""
    best = len(lengths)

    def place(item: int, loads: list[int]) -> None:
        nonlocal best
        if len(loads) >= best and item < len(lengths):
            return
        if item == len(lengths):
            best = min(best, len(loads))
            return
        for row, load in enumerate(loads):
            if load + lengths[item] <= capacity:
                place(item + 1, [*loads[:row], load + lengths[item], *loads[row + 1 :]])
        place(item + 1, [*loads, lengths[item]])

    place(0, [])
    return best


def test_a_worked_example():
    # longest first: 6 opens row 0, 5 opens row 1, 4 fills row 0 (6 + 4 = 10), 3 and 2 fill row 1 (5 + 3 + 2 = 10)
    assert pack_rows([6, 5, 4, 3, 2], capacity=10) == [[0, 2], [1, 3, 4]]


@settings(derandomize=True, deadline=None)
@given(LENGTHS, CAPACITY)
def test_every_item_is_in_one_row_and_only_a_single_long_item_exceeds_the_capacity(lengths, capacity):
    rows = pack_rows(lengths, capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[item] for item in row) <= capacity or len(row) == 1


@settings(derandomize=True, deadline=None)
@given(LENGTHS, CAPACITY, TOKENS)
def test_every_row_is_in_one_micro_batch_and_padding_counts_against_its_tokens(lengths, capacity, tokens):
    rows = pack_rows(lengths, capacity)
    groups = group_rows(rows, lengths, tokens)
    assert sorted(row for group in groups for row in group) == sorted(rows)
    for group in groups:
        width = max(sum(lengths[item] for item in row) for row in group)
        assert len(group) * width <= tokens or len(group) == 1


@settings(derandomize=True, deadline=None)
@given(LENGTHS, CAPACITY, TOKENS)
def test_the_same_lengths_give_the_same_micro_batches(lengths, capacity, tokens):
    first, second = (group_rows(pack_rows(tuple(lengths), capacity), lengths, tokens) for _ in range(2))
    assert first == second


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=7).map(tuple), st.integers(12, 20))
def test_rows_are_at_most_eleven_ninths_of_the_optimum_and_one(lengths, capacity):
    assert 9 * len(pack_rows(lengths, capacity)) <= 11 * fewest_rows(lengths, capacity) + 9


def test_equal_lengths_keep_their_order():
    assert pack_rows([3] * 6, capacity=6) == [[0, 1], [2, 3], [4, 5]]


def test_nothing_packs_to_nothing():
    assert pack_rows([], capacity=8) == []
    assert group_rows([], [], tokens=8) == []


def test_batches_that_are_only_looked_at_are_larger_and_laid_out_alike():
    training = Packing(layout="packed", tokens=100, row_tokens=30)
    assert training.for_looking() == Packing(layout="packed", tokens=400, row_tokens=30)
    assert Packing(layout="rows", tokens=100).for_looking() == Packing(layout="rows", tokens=400)


def test_where_lengths_are_compiled_for_they_stay_few():
    training = Packing(layout="packed", tokens=1024, multiple=128)
    looking = training.for_looking()
    assert (looking.tokens, looking.multiple) == (4096, 512)
    assert looking.tokens // looking.multiple == training.tokens // training.multiple


@settings(derandomize=True, deadline=None)
@given(LENGTHS, CAPACITY)
def test_levelled_rows_hold_the_same_items_in_as_many_rows_of_which_none_is_longer(lengths, capacity):
    rows = pack_rows(lengths, capacity)
    level = level_rows(rows, lengths)
    assert sorted(item for row in level for item in row) == list(range(len(lengths)))
    assert len(level) == len(rows)
    longest = [max((sum(lengths[item] for item in row) for row in some), default=0) for some in (rows, level)]
    assert longest[1] <= longest[0]


def test_a_short_last_row_is_filled_up():
    lengths = [4, 4, 4, 4, 4, 4]
    assert pack_rows(lengths, capacity=17) == [[0, 1, 2, 3], [4, 5]]
    assert level_rows(pack_rows(lengths, capacity=17), lengths) == [[0, 2, 4], [1, 3, 5]]
