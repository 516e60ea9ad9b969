"""Labels saved: by hand on made-up curves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from alignkit.analysis.answers.active_learning import answer, labels_for, needed_by_means, never_falling
from alignkit.errors import UserError

LABELS = np.array([20.0, 40.0, 60.0, 80.0])


def test_a_curve_that_never_falls_is_the_nearest_one_of_all_that_do_not():
    # 0.6 and 0.5 are out of order, and become their mean.
    assert never_falling(np.array([0.4, 0.6, 0.5, 0.9])).tolist() == pytest.approx([0.4, 0.55, 0.55, 0.9])
    curve = np.array([0.8, 0.6, 0.7])
    grid = [np.array(values) for values in itertools.product(np.linspace(0.5, 0.9, 25), repeat=3) if sorted(values) == list(values)]
    best = min(float(((curve - values) ** 2).sum()) for values in grid)
    assert float(((curve - never_falling(curve)) ** 2).sum()) <= best + 1e-12


def test_labels_for_a_level_are_where_the_line_between_two_points_reaches_it():
    curve = np.array([0.5, 0.6, 0.6, 0.8])
    assert labels_for(0.7, LABELS, curve) == pytest.approx(70)
    assert labels_for(0.55, LABELS, curve) == pytest.approx(30)
    assert labels_for(0.6, LABELS, curve) == 40  # the first of a flat stretch
    assert labels_for(0.4, LABELS, curve) == 20
    assert math.isnan(labels_for(0.81, LABELS, curve))


def experiment(write_experiment, curves: dict[str, list[list[float]]], noise: float = 0.0):
    """Jobs with the accuracies of each round, by way to choose and seed, from 20 labels on."""
    jobs = []
    for arm, of_seeds in curves.items():
        for seed, accuracies in enumerate(of_seeds):
            shared = {"config": {"seed": seed, "dataset": {"noise": noise}}}
            names = [*(f"reward_{number}" for number in range(1, len(accuracies))), "last"]
            models = {
                name: {"config": {"seed": seed}, "results": {"val/rewards/accuracies": accuracy, "data/train": 20 * place}}
                for place, (name, accuracy) in enumerate(zip(names, accuracies, strict=True), start=1)
            }
            jobs.append({"arm": arm, "stages": {"first": shared, **models}})
    return write_experiment(jobs)


def test_labels_saved_are_counted_at_the_accuracy_that_random_ends_with(write_experiment):
    curves = {"random": [[0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.809]], "margin": [[0.5, 0.7, 0.8, 0.85], [0.5, 0.7, 0.9, 0.9]]}
    told = answer(experiment(write_experiment, curves, noise=0.1))
    text = "\n".join(told.findings)
    # random ends with 0.8045 in the mean; 0.80 takes it 80 and 60 + 20 * 0.1 / 0.109 labels, and margin 60 and 50.
    assert "With 10% of labels wrong, random reaches an accuracy of 0.80 in the mean with all 80 labels. Labels that it takes: " in text
    assert "Runs that do not get there, and count as 80: margin 0 of 2, random 0 of 2." in text
    assert f"{(80 + 60 + 2 / 0.109 - 110) / 2:.0f} [" in text
    # The mean curves: 0.5, 0.6, 0.7, 0.8045 and 0.5, 0.7, 0.85, 0.875.
    assert "In the mean over 2 seeds margin reaches 0.80 with 53 labels and random with 79: 26 [" in text
    # Without the first: (0.7 + 0.8 + 0.85) / 3 - 0.7 and (0.7 + 0.9 + 0.9) / 3 - 2.109 / 3, 0.0833 and 0.1303.
    assert "accuracy 0.107" in text
    assert "0.070 [-0.190, 0.331] with all 80 labels" in text  # 0.05 and 0.091; t of one degree of freedom: 12.706 * 0.0205
    rows = told.table.set_index(["query", "labels"])
    assert rows.loc[("margin", 40), "minus random"] == pytest.approx(0.1)
    assert math.isnan(rows.loc[("random", 40), "minus random"])
    assert rows.loc[("random", 80), "accuracy"] == pytest.approx(0.8045)


def test_more_labels_than_random_are_called_more(write_experiment):
    curves = {"random": [[0.5, 0.8], [0.6, 0.8]], "ensemble": [[0.5, 0.5, 0.8], [0.6, 0.6, 0.8]]}
    text = "\n".join(answer(experiment(write_experiment, curves)).findings)
    assert "ensemble takes more labels than random: -20 [-20, -20] fewer" in text


def test_a_run_that_does_not_get_there_counts_as_if_its_last_label_did_it(write_experiment):
    curves = {"random": [[0.5, 0.7], [0.5, 0.9]], "margin": [[0.5, 0.7], [0.8, 0.9]]}
    text = "\n".join(answer(experiment(write_experiment, curves)).findings)
    # 0.80: never, and 20 + 20 * 0.3 / 0.4 = 35; never, and 20.
    assert "accuracy of 0.80 in the mean with all 40 labels. Labels that it takes: margin 30 [" in text
    assert "count as 40: margin 1 of 2, random 1 of 2." in text
    assert "margin takes not clearly fewer labels than random: 8 [" in text


def test_the_mean_curve_of_all_seeds_comes_first_and_resamples_are_those_of_single_seeds():
    accuracies = np.array([[0.5, 0.7, 0.9, 0.9], [0.5, 0.6, 0.7, 0.8]])
    needed = needed_by_means(accuracies, LABELS, 0.75)
    assert needed[0] == pytest.approx(40 + 20 * 0.1 / 0.15)  # 0.65, then 0.8
    values, counts = np.unique(needed[1:].round(6), return_counts=True)
    assert values.tolist() == pytest.approx([45, 40 + 20 * 0.1 / 0.15, 70])  # the first twice, both, the second twice
    assert counts / len(needed) == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_no_model_is_no_answer(write_experiment):
    with pytest.raises(UserError, match="no reward model is finished"):
        answer(write_experiment([{"arm": "random", "stages": {"first": {"config": {"seed": 0, "dataset": {"noise": 0.0}}}}}]))
