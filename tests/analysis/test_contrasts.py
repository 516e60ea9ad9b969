"""Differences at equal seeds, against arithmetic by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from alignkit.analysis.contrasts import contrast, sign, told
from alignkit.analysis.sweeps import Interval

ROWS = pd.DataFrame(
    [("kto", 0, 3.0), ("kto", 1, 5.0), ("kto", 2, 9.0), ("sft", 1, 1.0), ("sft", 0, 1.0), ("sft", 3, 100.0)],
    columns=["arm", "seed", "gold"],
)


def test_seeds_are_paired_and_one_without_a_partner_does_not_count():
    over = contrast(ROWS, "gold", {"arm": "kto"}, {"arm": "sft"})  # 3 - 1 and 5 - 1
    assert over.mean == 3.0
    assert over.high - over.mean == pytest.approx(12.7062047 * math.sqrt(2) / math.sqrt(2), rel=1e-6)  # t(0.975, 1) s / sqrt(2)


def test_the_other_way_round_it_has_the_other_sign():
    there, back = (contrast(ROWS, "gold", {"arm": this}, {"arm": that}) for this, that in (("kto", "sft"), ("sft", "kto")))
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_nothing_is_said_where_no_seed_has_both():
    assert math.isnan(contrast(ROWS, "gold", {"arm": "kto"}, {"arm": "bco"}).mean)


@pytest.mark.parametrize(
    ("low", "high", "said", "word"),
    [(0.1, 2, 1, "more"), (-2, -0.1, -1, "less"), (-1, 2, 0, "neither"), (math.nan, math.nan, 0, "neither"), (1, 1, 1, "more")],
)
def test_only_an_interval_on_one_side_of_zero_tells(low: float, high: float, said: int, word: str):
    over = Interval(mean=1.0, low=low, high=high)
    assert sign(over) == said
    assert told(over, ("more", "less", "neither")) == word
