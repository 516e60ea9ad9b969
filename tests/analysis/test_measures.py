"""Names of results in words, with the units and directions of `alignkit/metrics.py`."""

from __future__ import annotations

import pytest

from alignkit.analysis.measures import direction, label, measure, unit, words
from alignkit.errors import UserError
from alignkit.metrics import METRICS


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("val/rewards/margins", "rewards/margins, held out (reward)"),
        ("train/loss", "loss, training (nats)"),
        ("start/val/loss", "loss, held out, start (nats)"),
        ("best/val/rewards/accuracies", "rewards/accuracies, held out, best (fraction)"),
        ("train/gradient_norm", "gradient_norm, training"),  # its unit is 1
        ("val/helpful/rewards/margins", "helpful/rewards/margins, held out (reward)"),  # of one term of an objective
        ("seconds", "seconds"),
    ],
)
def test_a_name_in_words(name, told):
    assert label(name) == told


@pytest.mark.parametrize("place", ["train/", "val/", "start/val/", "best/val/"])
def test_every_metric_is_known_wherever_it_stands(place):
    for name, metric in METRICS.items():
        assert measure(place + name) == metric
        assert words(place + name).startswith(name)
        assert unit(place + name) == ("" if metric.unit == "1" else metric.unit)


def test_what_is_said_counts_more_than_the_metric_s_own_direction():
    assert (direction("val/loss", None), direction("val/loss", "higher"), direction("seconds", "lower")) == ("lower", "higher", "lower")
    for name in ("seconds", "val/objective/kl"):
        with pytest.raises(UserError, match=f"{name}'?: neither higher nor lower is better by itself"):
            direction(name, None)
