"""Accuracies by size that are known."""

from __future__ import annotations

import pytest

from alignkit.analysis.answers.size import answer


def job(arm, seed, pairs, accuracy, *, model="tiny", parameters=1_435_040):
    results = {"val/rewards/accuracies": accuracy, "val/rewards/calibration_error": 0.1, "parameters": parameters}
    config = {"seed": seed, "dataset": {"pairs": pairs}}
    stages = {"reward": {"config": config | {"model": {"path": f"models/{model}"}}, "results": results}}
    if arm == "models":
        stages["reward"]["config"]["model"] = {"path": "0/language/model"}
        stages = {"language": {"config": {"seed": seed, "model": {"path": f"models/{model}"}}}} | stages
    return {"arm": arm, "stages": stages}


def data(*accuracies):
    return [
        job("data", seed, pairs, own + seed / 100) for pairs, own in zip((60, 250, 1000), accuracies, strict=True) for seed in (0, 1, 2)
    ]


def test_each_size_is_compared_with_the_next_smaller_one_and_the_ends_with_each_other(write_experiment):
    told = answer(write_experiment(data(0.6, 0.8, 0.75)))
    assert told.table["accuracy"].tolist() == pytest.approx([0.61, 0.81, 0.76])
    text = "\n".join(told.findings)
    assert "From 60 to 250 preferences accuracy grows" in text
    assert "From 250 to 1,000 preferences accuracy falls" in text
    assert "From 60 to 1,000 preferences accuracy grows" in text
    assert "Over 3 sizes the mean accuracy falls in 1 of 2 steps to more preferences." in text
    assert "size=models adds the size of the model" in text
    assert len(told.figure.axes) == 2


def test_a_model_is_called_by_the_folder_that_it_began_from_and_ordered_by_its_parameters(write_experiment):
    models = [
        job("models", seed, 1000, accuracy, model=name, parameters=count)
        for name, count, accuracy in (("width_320", 8_000_000, 0.9), ("width_64", 200_000, 0.7))
        for seed in (0, 1)
    ]
    told = answer(write_experiment([*data(0.6, 0.7, 0.8), *models]))
    assert told.table[told.table["arm"] == "models"]["model"].tolist() == ["width_320", "width_64"]
    assert any("From 200,000 to 8,000,000 parameters accuracy grows" in finding for finding in told.findings)
    assert not any("size=models" in finding for finding in told.findings)
    assert len(told.figure.axes) == 3
