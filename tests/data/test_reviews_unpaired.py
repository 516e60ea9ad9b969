"""Thumbs: one side of each pair of the reviews world."""

from __future__ import annotations

from typing import Any

import pytest

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.forms import Form
from alignkit.data.rows import DroppedRow
from alignkit.data.sources.reviews import Reviews
from alignkit.data.sources.reviews_unpaired import ReviewsUnpaired
from alignkit.errors import UserError
from alignkit.lab.gold import GoldReward

DEFAULTS = dataset_settings(packaged("dataset")["reviews_unpaired"], []).options


def pairs(**changes: Any) -> Reviews:
    return Reviews(**{**dataset_settings(packaged("dataset")["reviews"], []).options, "pairs": 300, **changes})


def unpaired(**changes: Any) -> ReviewsUnpaired:
    return ReviewsUnpaired(**{**DEFAULTS, "labels": 300, **changes})


def test_each_completion_is_one_side_of_the_pair_at_its_place_and_labelled_as_it_stood_there():
    for pair, one in zip(pairs().train(), unpaired().train(), strict=True):
        (completion,), (desirable,) = one.completions, one.desirable
        assert (one.prompt, completion) == (pair.prompt, pair.completions[0 if desirable else 1])
        assert GoldReward().score([""], [completion])[0] == one.ratings["overall"][0]


def test_the_share_of_desirable_ones_is_that_asked_for_and_a_larger_one_keeps_them():
    rare, many = (
        {place for place, one in enumerate(unpaired(desirable_share=share).train()) if one.desirable[0]} for share in (1 / 11, 0.5)
    )
    assert rare < many
    # Three standard deviations of a binomial count of 300.
    assert abs(len(rare) - 27.3) < 15
    assert abs(len(many) - 150) < 26


def test_a_wrong_label_is_that_of_a_flipped_pair():
    clean = {(pair.prompt, text): place == 0 for pair in pairs(noise=0.0).train() for place, text in enumerate(pair.completions)}

    def wrong(noise: float) -> int:
        return sum((clean[one.prompt, one.completions[0]],) != one.desirable for one in unpaired(noise=noise).train())

    assert wrong(0.0) == 0
    assert 100 < wrong(0.5) < 200  # 150 of 300 in expectation, 8.7 the standard deviation


def test_losses_on_labels_read_all_of_it_and_imitation_what_is_desirable():
    examples = unpaired().train()
    assert [Form.labels().of(one).desirable for one in examples] == [one.desirable for one in examples]
    for one in examples:
        if one.desirable[0]:
            assert Form.single().of(one).completions == one.completions
        else:
            with pytest.raises(DroppedRow, match="undesirable"):
                Form.single().of(one)


def test_held_out_pairs_are_those_of_reviews():
    assert unpaired().validation(20) == pairs().validation(20)


@pytest.mark.parametrize(("key", "value"), [("labels", 0), ("desirable_share", 0.0), ("desirable_share", 1.0), ("noise", 0.6)])
def test_what_is_out_of_range_is_refused_by_its_key(key: str, value: float):
    with pytest.raises(UserError, match=rf"dataset\.{key}"):
        unpaired(**{key: value})
