"""`validation.gold` and `validation.kl` under objectives that sample nothing, and heads whose scores are normalised over samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.job import carry_out
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.scorers.normalization import Normalization
from alignkit.scorers.saved_heads import saved_head

SHORT = [
    "hardware.threads=1",
    "steps=2",
    "schedule.warmup_steps=0",
    "validation.every=2",
    "validation.samples=0",
    "validation.sample_tokens=8",
    "dataset.pairs=16",
    "dataset.validation_examples=6",
    "batch.pairs=4",
    "logger=jsonl",
    "callbacks.checkpoints=false",
    "callbacks.progress_bar=false",
]


def train(folder: Path, *overrides: str) -> tuple[RunDir, dict[str, object]]:
    (settings,) = precheck([*SHORT, *overrides])
    run = RunDir.create(folder)
    return run, carry_out(settings, run)


def test_gold_of_the_same_policy_is_the_same_under_any_loss(tmp_path):
    _, dpo = train(tmp_path / "dpo", "loss=dpo", "validation.gold=vader")
    run, ppo = train(tmp_path / "ppo", "loss=ppo", "scorer=length", "scorer.target=5", "validation.gold=vader", "rollout.samples=1")
    assert dpo["start/val/objective/gold"] == pytest.approx(ppo["start/val/objective/gold"], abs=1e-6)
    assert dpo["start/val/objective/gold_std"] == pytest.approx(ppo["start/val/objective/gold_std"], abs=1e-6)
    assert dpo["start/val/rollout/length"] == pytest.approx(ppo["start/val/rollout/length"], rel=1e-6)
    assert "val/objective/gold" in dpo
    assert "val/loss" in dpo
    assert ppo["val/objective/scores"] != ppo["val/objective/gold"]
    assert [row["step"] for row in read_jsonl(run.metrics) if "val/objective/gold" in row] == [0, 2]


def test_a_gold_scorer_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"validation\.gold = 'vadr'; must be one of .*vader"):
        train(tmp_path / "run", "loss=dpo", "validation.gold=vadr")


MOVING = ["optimizer.lr=3e-3", "validation.gold=vader", "validation.kl=true"]
"""Two steps that move the policy by a nat or more."""
MEASURED = ["kl", "kl_standard_error", "kl_k3", "kl_k3_standard_error", "reference_nll", "gold"]


def test_kl_to_the_reference_is_what_ppo_measures_of_the_same_policy(tmp_path):
    run, dpo = train(tmp_path / "dpo", "loss=dpo", *MOVING)
    ppo = ["loss=ppo", "scorer=vader", f"model.path={run.model}", "reference.path=builtin:tiny", "validation.gold=vader"]
    _, told = train(tmp_path / "ppo", *ppo)
    assert dpo["val/objective/kl"] > 0.5
    for name in MEASURED:
        assert dpo[f"val/objective/{name}"] == pytest.approx(told[f"start/val/objective/{name}"], abs=2e-4), name
    for name in ("distinct_1", "distinct_2", "length"):
        assert dpo[f"val/rollout/{name}"] == pytest.approx(told[f"start/val/rollout/{name}"]), name
    assert abs(dpo["start/val/objective/kl"]) < 1e-6
    assert [row["step"] for row in read_jsonl(run.metrics) if "val/objective/kl" in row] == [0, 2]


def test_kl_under_a_frozen_trunk_is_0_to_the_bit(tmp_path):
    _, results = train(tmp_path / "run", "loss=con_dph", "loss.dpo_weight=0", "model.train=heads", *MOVING)
    for name in MEASURED[:4]:
        assert results[f"val/objective/{name}"] == 0.0, name
    assert results["val/loss"] != results["start/val/loss"]
    assert results["models_held"] == 2


@pytest.mark.parametrize(
    ("overrides", "models"),
    [(["loss=sft"], 2), (["loss=dpo", "reference.path=builtin:tiny"], 2), (["loss=dpo", "model.adapter=lora"], 1)],
    ids=["no reference", "another reference", "adapters"],
)
def test_kl_is_measured_against_whatever_the_policy_began_as(overrides, models, tmp_path):
    _, results = train(tmp_path / "run", *overrides, *MOVING, "validation.gold=null")
    assert abs(results["start/val/objective/kl"]) < 1e-6
    assert results["val/objective/kl_k3"] > 0.01
    assert results["models_held"] == models
    assert "val/objective/gold" not in results


def test_scores_of_a_normalised_head_have_mean_0_and_variance_1_over_the_starting_policys_samples(tmp_path):
    run, results = train(tmp_path / "run", "loss=reward", "loss.head.normalize=12")
    stored = json.loads(run.heads_description.read_text())["reward"]
    assert (stored["gain"], stored["bias"]) == (results["heads/reward/gain"], results["heads/reward/bias"])
    assert stored["gain"] > 0
    # measured again, by the scorer that reads the run, on the same samples
    ppo = ["loss=ppo", "rollout.max_tokens=8", "rollout.samples=1", "scorer=head", f"scorer.path={run.path}"]
    _, normalised = train(tmp_path / "ppo", *ppo)
    _, raw = train(tmp_path / "raw", *ppo, "scorer.normalized=false")
    scores = torch.tensor([raw["start/val/objective/scores"]])
    assert normalised["start/val/objective/scores"] == pytest.approx(float(Normalization(stored["gain"], stored["bias"])(scores)), abs=1e-4)
    assert normalised["start/val/objective/scores_std"] == pytest.approx(stored["gain"] * raw["start/val/objective/scores_std"], rel=1e-4)


def test_heads_are_left_alone_unless_asked(tmp_path):
    run, results = train(tmp_path / "run", "loss=reward")
    assert saved_head(run.path, "reward").normalization == Normalization(1.0, 0.0)
    assert not [name for name in results if name.startswith("heads/")]
