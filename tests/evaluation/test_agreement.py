"""Agreement of judges against worked examples of the literature, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from alignkit.evaluation.agreement import cohen_kappa, krippendorff_alpha, raw_agreement


def test_raw_agreement_is_over_what_both_speak_about() -> None:
    assert raw_agreement(["a", "b", None, "a"], ["a", "a", "a", None]) == 0.5
    assert math.isnan(raw_agreement(["a", None], [None, "b"]))


def test_kappa_of_a_table_by_hand() -> None:
    """20 both yes, 5 and 10 apart, 15 both no: p_o = 35/50, p_e = (25*30 + 25*20)/2500 = 1/2, kappa = 0.4."""
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)


def test_kappa_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    one, noise = generator.integers(3, size=200), generator.integers(3, size=200)
    other = np.where(generator.random(200) < 0.5, one, noise)
    assert cohen_kappa(one.tolist(), other.tolist()) == pytest.approx(cohen_kappa_score(one, other))


def test_kappa_has_no_value_where_chance_alone_agrees() -> None:
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    assert math.isnan(cohen_kappa([None], ["a"]))
    assert cohen_kappa(["a", "b"], ["b", "a"]) == -1.0


KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers and twelve units, some of which some do not speak about."""


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: nominal alpha 0.743."""
    said = [[None if label == "." else label for label in line.split()] for line in KRIPPENDORFF.strip().splitlines()]
    assert krippendorff_alpha(said) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_judges_by_hand() -> None:
    """Labels aa, ab, bb, bb: n = 8, a 3, b 5; D_o = 2/8; D_e = 2*3*5/(8*7) = 30/56; alpha = 1 - (1/4)(56/30)."""
    assert krippendorff_alpha([["a", "a", "b", "b"], ["a", "b", "b", "b"]]) == pytest.approx(1 - 56 / 120)


def test_alpha_is_one_where_all_agree_and_has_no_value_where_nothing_differs() -> None:
    assert krippendorff_alpha([["a", "b", "a"]] * 3) == 1.0
    assert math.isnan(krippendorff_alpha([["a", "a"], ["a", "a"]]))
    assert math.isnan(krippendorff_alpha([["a", "b"]]))
    assert math.isnan(krippendorff_alpha([["a", None], [None, "b"]]))
