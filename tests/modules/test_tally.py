"""Means by count that outlive a restart."""

from __future__ import annotations

import io

import pytest
import torch

from alignkit.modules.tally import Tally


def test_means_are_by_count_and_not_of_means():
    tally = Tally()
    tally.add("loss", torch.tensor([1.0, 2.0, 3.0]))
    tally.add("loss", torch.tensor([10.0]))
    tally.add("rate", 0.5)
    assert tally.take() == {"loss": 4.0, "rate": 0.5}
    assert tally.take() == {}


def test_sums_are_double():
    tally = Tally()
    tally.add("loss", torch.tensor([2.0**24, 1.0, 1.0]))
    assert tally.take()["loss"] == pytest.approx((2**24 + 2) / 3, abs=1e-9)


def test_no_values_are_no_mean():
    tally = Tally()
    tally.add("loss", torch.zeros(0))
    assert tally.take() == {}


def test_a_checkpoint_half_way_to_a_row_goes_on():
    before, file = Tally(), io.BytesIO()
    before.add("loss", torch.tensor([1.0, 2.0]))
    torch.save(before.state(), file)
    file.seek(0)
    after = Tally()
    after.load_state(torch.load(file, weights_only=True))
    after.add("loss", torch.tensor([6.0]))
    assert after.take() == {"loss": 3.0}
