"""Means over values, never over batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.modules.counted_means import CountedMeans

VALUES = st.floats(-100, 100, width=32)


def test_a_short_last_batch_weighs_what_it_holds():
    # (1 + 2 + 3 + 10) / 4 = 4; the mean of the two batches' means would be (2 + 10) / 2 = 6
    means = CountedMeans(["loss"])
    means.update({"loss": torch.tensor([1.0, 2.0, 3.0])})
    means.update({"loss": torch.tensor([10.0])})
    assert means.compute()["loss"] == 4.0


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.lists(VALUES, max_size=7), min_size=1, max_size=6).filter(lambda batches: any(batches)))
def test_any_cut_gives_the_mean_over_all_values(batches):
    means = CountedMeans(["loss", "constant"])
    for batch in batches:
        means.update({"loss": torch.tensor(batch), "constant": torch.ones(len(batch))})
    every = [value for batch in batches for value in batch]
    assert means.compute()["loss"] == pytest.approx(sum(every) / len(every), abs=1e-3)
    assert means.compute()["constant"] == 1.0


def test_names_may_count_different_things():
    # two pairs and five tokens
    means = CountedMeans(["pairs", "tokens"])
    means.update({"pairs": torch.tensor([1.0, 3.0]), "tokens": torch.tensor([True, False, False, True, True])})
    means.update({"pairs": torch.tensor([]), "tokens": torch.tensor([])})
    assert means.compute() == pytest.approx({"pairs": 2.0, "tokens": 0.6})


def test_a_name_without_values_has_no_mean():
    means = CountedMeans(["pairs", "tokens"])
    means.update({"pairs": torch.tensor([1.0]), "tokens": torch.tensor([])})
    assert means.compute() == {"pairs": 1.0}


def test_values_are_summed_in_float32_and_without_gradient():
    values = torch.full((3000,), 0.1, dtype=torch.bfloat16, requires_grad=True)
    means = CountedMeans(["loss"])
    means.update({"loss": values})
    assert means.sums.dtype == torch.float32
    assert not means.sums.requires_grad
    assert means.compute()["loss"] == pytest.approx(values[0].item(), rel=1e-5)


def test_reset_forgets_everything():
    means = CountedMeans(["loss"])
    means.update({"loss": torch.tensor([5.0])})
    means.compute()
    means.reset()
    means.update({"loss": torch.tensor([1.0])})
    assert means.compute()["loss"] == 1.0


def test_a_name_that_is_missing_is_an_error_and_others_are_not_read():
    means = CountedMeans(["loss"])
    with pytest.raises(KeyError):
        means.update({"other": torch.tensor([5.0])})


def test_two_devices_that_hold_different_numbers_of_values_give_the_mean_over_all():
    # What torchmetrics does across ranks, by hand: sums and counts are added.
    ranks = [CountedMeans(["loss"]) for _ in range(2)]
    ranks[0].update({"loss": torch.tensor([1.0, 2.0, 3.0])})
    ranks[1].update({"loss": torch.tensor([10.0])})
    both = CountedMeans(["loss"])
    for state in ("sums", "counts"):
        reduce = both._reductions[state]
        setattr(both, state, reduce(torch.stack([getattr(rank, state) for rank in ranks])))
    both._update_count = 1
    assert both.compute()["loss"] == 4.0
