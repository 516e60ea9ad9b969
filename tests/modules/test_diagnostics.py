"""Diagnostics against numbers worked out by hand, and what they say of a training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignkit.callbacks.metrics_log import MetricsLog
from alignkit.modules.diagnostics import Diagnostics
from alignkit.modules.objective import Evaluation
from alignkit.modules.term import TermOutput
from alignkit.run_dir import RunDir, read_jsonl


def evaluation(chosen: list[float], rejected: list[float], logps: list[float], lengths: tuple[list[int], list[int]]) -> Evaluation:
    rewards = {"rewards/chosen": torch.tensor(chosen), "rewards/rejected": torch.tensor(rejected)}
    metrics: dict[str, Tensor] = {**rewards, "rewards/margins": rewards["rewards/chosen"] - rewards["rewards/rejected"]}
    output = TermOutput(losses=torch.zeros(len(chosen)), lengths=(torch.tensor(lengths[0]), torch.tensor(lengths[1])))
    return Evaluation(outputs={"dpo": output}, weights={"dpo": 1.0}, metrics={**metrics, "logps/chosen": torch.tensor(logps)})


def test_calibration_is_the_gap_between_confidence_and_accuracy():
    # sigmoid(ln 3) = 3/4 three times, of which two are right, and sigmoid(ln 9) = 9/10 once, right: (3 |2/3 - 3/4| + |1 - 9/10|) / 4
    diagnostics = Diagnostics()
    margins = [math.log(3), math.log(3), -math.log(3), math.log(9)]
    diagnostics.update(evaluation(margins, [0.0] * 4, [0.0] * 4, ([1] * 4, [2] * 4)), 0)
    assert diagnostics.compute()["rewards/calibration_error"] == pytest.approx((3 * abs(2 / 3 - 3 / 4) + abs(1 - 9 / 10)) / 4, abs=1e-6)


@pytest.mark.parametrize(("slope", "correlation"), [(2.0, 1.0), (-0.5, -1.0)])
def test_rewards_that_are_a_line_in_length_correlate_fully(slope, correlation):
    diagnostics = Diagnostics()
    for index, (chosen, rejected) in enumerate([([3, 5], [8, 1]), ([2], [9])]):
        rewards = [[slope * tokens + 1 for tokens in side] for side in (chosen, rejected)]
        diagnostics.update(evaluation(*rewards, [0.0] * len(chosen), (chosen, rejected)), index)
    assert diagnostics.compute()["rewards/length_correlation"] == pytest.approx(correlation, abs=1e-5)


def test_rewards_that_are_all_equal_have_no_correlation_and_give_no_warning():
    diagnostics = Diagnostics()
    diagnostics.update(evaluation([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], ([1, 2], [3, 4])), 0)
    assert "rewards/length_correlation" not in diagnostics.compute()


def test_displacement_is_measured_from_the_first_validation_pair_by_pair():
    diagnostics = Diagnostics()
    same = ([1], [2])

    def validate(*logps: float) -> dict[str, float]:
        for index, value in enumerate(logps):
            diagnostics.update(evaluation([0.0], [0.0], [value], same), index)
        return diagnostics.compute()

    assert "logps/chosen_change" not in validate(-10.0, -20.0, -30.0)
    later = validate(-12.0, -20.0, -29.0)  # -2, 0, +1
    assert later["logps/chosen_change"] == pytest.approx(-1 / 3, abs=1e-6)
    assert later["logps/chosen_fell"] == pytest.approx(1 / 3, abs=1e-6)
    state = diagnostics.state()
    diagnostics = Diagnostics()
    diagnostics.load_state(state)
    assert validate(-11.0, -21.0, -31.0)["logps/chosen_change"] == pytest.approx(-1.0, abs=1e-6)


def test_a_training_logs_them_with_its_validations(lm_factory, examples_factory, module_factory, fit, tmp_path):
    run = RunDir.create(tmp_path)
    module = module_factory("dpo", lm_factory("llama"), steps=4)
    examples = examples_factory(8)
    fit(module, examples, validation=examples, validate_every=2, logger=MetricsLog(run, steps_per_epoch=2))
    first, last = (row for row in read_jsonl(run.metrics) if "val/loss" in row)
    assert "val/logps/chosen_change" not in first
    assert last["val/logps/chosen_change"] == pytest.approx(last["val/logps/chosen"] - first["val/logps/chosen"], abs=1e-4)
    assert 0 <= last["val/rewards/calibration_error"] <= 1
    assert -1 <= last["val/rewards/length_correlation"] <= 1
