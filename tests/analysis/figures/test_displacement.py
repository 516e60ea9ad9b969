"""Displacement: changes from the first validation on, both sides on one scale."""

from __future__ import annotations

import pytest

from alignkit.analysis.figures.displacement import displacement
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError


def test_both_sides_start_at_zero_and_move_as_they_were_logged(two_losses):
    figure = displacement(two_losses)
    chosen, rejected, margins = figure.axes
    for axes, per_step in ((chosen, -0.1), (rejected, -0.2)):
        lines = [line for line in axes.lines if line.get_label() in ("dpo", "cdpo")]
        assert len(lines) == 2
        for line in lines:  # seeds start one nat apart, and change alike
            assert line.get_xydata().tolist() == [pytest.approx([step, per_step * step], abs=1e-9) for step in (0, 10, 20)]
    assert [axes.get_ylabel() for axes in figure.axes] == ["nats", "nats", "reward"]
    assert margins.get_title(loc="left") == "rewards/margins, held out"
    assert chosen.get_ylim() == rejected.get_ylim() != margins.get_ylim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cdpo", "dpo"]


def test_runs_without_log_probs_are_told_what_they_have(write_run, tmp_path):
    write_run("reward", {"seed": 0}, rows=[{"step": 0, "val/rewards/margins": 0.0}])
    with pytest.raises(UserError, match=r"no run has logged 'val/logps/chosen'.* There are: val/rewards/margins"):
        displacement(load_runs(tmp_path))
