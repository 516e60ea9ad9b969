"""The frontier: where its points are, how far its bars reach, and what the legend says of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from alignkit.analysis.figures.frontier import frontier
from alignkit.errors import UserError

SEEDS = (0, 1, 2)


def points(**more: float) -> pd.DataFrame:
    """Two methods; DPO's weaker beta is further away. Seeds add -1, 0, 1 to KL and -0.1, 0, 0.1 to rewards."""
    rows = [
        {"method": method, "strength": strength, "seed": seed, "kl": kl + seed - 1, "reward": reward + (seed - 1) / 10, **more}
        for method, strength, kl, reward in [
            ("dpo", 0.5, 3.0, 0.4),
            ("dpo", 0.05, 9.0, 0.8),
            ("dpo", 0.1, 6.0, 0.7),
            ("ppo", 0.1, 4.0, 0.5),
        ]
        for seed in SEEDS
    ]
    return pd.DataFrame(rows)


def bars(axes: Axes, container: int) -> list[np.ndarray]:
    """Segments [S, 2 ends, 2] of a method's bars: along KL, along reward."""
    return [np.array(lines.get_segments()) for lines in axes.containers[container].lines[2]]


def test_a_line_a_method_through_means_in_order_of_kl():
    figure = frontier(points())
    (axes,) = figure.axes
    dpo, ppo = (container.lines[0] for container in axes.containers)
    assert dpo.get_xydata().tolist() == [pytest.approx(place) for place in ([3, 0.4], [6, 0.7], [9, 0.8])]
    assert ppo.get_xydata().tolist() == [pytest.approx([4, 0.5])]
    assert dpo.get_marker() != ppo.get_marker()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dpo", "ppo"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("KL(policy | reference) (nats)", "gold reward (score)")


def test_bars_are_t_intervals_in_both_directions():
    figure = frontier(points())
    along_kl, along_reward = bars(figure.axes[0], 0)
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2) over the root of three seeds, whose standard deviations are 1 and 0.1
    assert along_kl[:, :, 0] == pytest.approx(np.array([[3 - half, 3 + half], [6 - half, 6 + half], [9 - half, 9 + half]]), rel=1e-5)
    assert along_reward[1, :, 1] == pytest.approx([0.7 - half / 10, 0.7 + half / 10], rel=1e-5)
    assert "95 % t intervals over 3 seeds" in figure.legends[0].get_title().get_text()


def test_single_seeds_are_shown():
    (axes,) = frontier(points()).axes
    dpo, ppo = (line for line in axes.lines if line.get_alpha() == 0.4)
    written = points().query("method == 'dpo'")[["kl", "reward"]].to_numpy()
    assert dpo.get_xydata() == pytest.approx(written)
    assert len(ppo.get_xydata()) == 3


def test_one_seed_without_errors_has_no_bars():
    alone = points().query("seed == 1")
    figure = frontier(alone)
    assert not figure.axes[0].containers[0].lines[2]
    assert figure.legends[0].get_title().get_text() == "one seed each; bars: none"


def test_one_seed_with_errors_has_bars_over_samples_and_says_so():
    figure = frontier(points(kl_error=0.5, reward_error=0.02).query("seed == 1"))
    along_kl, along_reward = bars(figure.axes[0], 1)
    assert along_kl[0, :, 0] == pytest.approx([4 - 0.98, 4 + 0.98], rel=1e-4)
    assert along_reward[0, :, 1] == pytest.approx([0.5 - 0.0392, 0.5 + 0.0392], rel=1e-4)
    assert figure.legends[0].get_title().get_text() == "one seed each; bars: 1.96 standard errors over samples"


def test_runs_that_diverged_are_left_out():
    some = points()
    some.loc[some["method"] == "ppo", "kl"] = math.nan
    assert [text.get_text() for text in frontier(some).legends[0].get_texts()] == ["dpo"]


def test_points_that_say_nothing_are_refused():
    with pytest.raises(UserError, match=r"points lack kl, reward; they have method, strength, seed"):
        frontier(points().drop(columns=["kl", "reward"]))
    with pytest.raises(UserError, match="no row of points has both a KL and a reward"):
        frontier(points().assign(kl=math.nan))
