"""PPO's panels: those that were logged, in their order."""

from __future__ import annotations

import pytest

from alignkit.analysis.figures.ppo_panels import PANELS, ppo_panels
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError
from alignkit.metrics import METRICS


def test_there_is_a_panel_for_each_metric_with_its_unit(write_run, tmp_path):
    for seed in (0, 1):
        rows = [{"step": step, **{name: step + seed for name in PANELS}} for step in (1, 2)]
        write_run(str(seed), {"loss": {"name": "ppo"}, "seed": seed}, rows=rows)
    figure = ppo_panels(load_runs(tmp_path))
    assert len(figure.axes) == 9
    for name, axes in zip(PANELS, figure.axes, strict=True):
        own = name.partition("/")[2]
        assert axes.get_title(loc="left").replace("\n", " ").startswith(own)
        assert axes.get_ylabel() == METRICS[own].unit
        assert axes.lines[0].get_xydata().tolist() == [[1, 1.5], [2, 2.5]]
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 6 + ["optimiser steps"] * 3


def test_metrics_that_were_not_logged_have_no_panel(write_run, tmp_path):
    write_run("rloo", {"loss": {"name": "rloo"}, "seed": 0}, rows=[{"step": 1, "train/objective/kl": 0.5, "train/objective/scores": 1.0}])
    figure = ppo_panels(load_runs(tmp_path))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["objective/scores, training", "objective/kl, training"]


def test_runs_that_never_sampled_are_refused_by_their_losses(two_losses):
    with pytest.raises(UserError, match=r"no run logged train/objective/kl, as ppo, rloo, grpo and trpo do. The runs' losses: cdpo, dpo"):
        ppo_panels(two_losses)
