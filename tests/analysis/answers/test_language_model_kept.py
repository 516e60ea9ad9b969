"""What is kept of a language model, told from its samples, its text and its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alignkit.analysis.answers.language_model_kept import answer
from alignkit.analysis.runs import Runs


def job(
    arm: str, seed: int, *, kl: float, after: float, gold: float, best: float | None, decay: float = 0.01, moved: bool = True
) -> dict[str, Any]:
    policy = {"val/objective/kl": kl, "val/objective/kl_k3": kl, "start/val/objective/gold": 0.2, "val/objective/gold": gold}
    stages = {
        "sft": {"config": {"seed": seed}, "results": {"val/loss": 1.0}},
        "policy": {
            "config": {"seed": seed, "optimizer": {"weight_decay": decay}},
            "results": policy | {"policy_fingerprint": f"before {seed}", "val/rewards/accuracies": 0.8},
        },
        "text": {
            "config": {"seed": seed},
            "results": {"start/val/loss": after, "policy_fingerprint": f"after {seed}" if moved else f"before {seed}"},
        },
    }
    if best is not None:
        stages["best"] = {"config": {"seed": seed}, "results": {"best_of_1/gold": gold, "best_of_4/gold": best}}
    return {"arm": arm, "stages": stages}


def test_a_frozen_trunk_is_exact_and_others_are_measured(write_experiment: Callable[..., Runs]) -> None:
    jobs = []
    for seed in range(3):
        jobs.append(job("dph_frozen", seed, kl=0.0, after=1.0, gold=0.2, best=0.7 + seed / 100, moved=False))
        jobs += [
            job("dph_decay", seed, kl=kl + seed / 10, after=1.1, gold=0.3, best=0.8, decay=decay) for decay, kl in ((0.0, 2.0), (0.5, 1.0))
        ]
        jobs.append(job("dpo", seed, kl=6.0 + seed, after=1.5, gold=0.6, best=None))
    told = answer(write_experiment(jobs))
    table = told.table.set_index("way")
    assert list(table.index) == ["dph_frozen", "dph_decay 0", "dph_decay 0.5", "dpo"]
    assert table["weights kept"].tolist() == ["3 of 3", "0 of 3", "0 of 3", "0 of 3"]
    assert table["largest |KL|"].tolist() == pytest.approx([0.0, 2.2, 1.2, 8.0])
    assert table.loc["dpo", "change of nats a token"] == pytest.approx(0.5)
    assert table.loc["dph_frozen", "best of N"] == pytest.approx(0.71)
    findings = " ".join(told.findings)
    assert "Under a frozen trunk all of 3 seeds have a KL of samples of exactly 0" in findings
    assert "dpo: KL 7.00 [4.52, 9.48] nats, perplexity of held-out text +64.9%" in findings  # e^0.5 = 1.649
    assert "KL is -1.00 [-1.00, -1.00] next to dph_decay 0 (KL, equal seeds): the interval over seeds excludes 0" in findings
    assert "The best of N by a head on a frozen trunk is +0.11" in findings


@pytest.mark.parametrize("change", [{"kl": 1e-9}, {"moved": True}])
def test_a_trunk_that_moved_is_not_called_exact(change: dict[str, Any], write_experiment: Callable[..., Runs]) -> None:
    options = {"kl": 0.0, "after": 1.0, "gold": 0.2, "best": 0.7, "moved": False} | change
    assert "not all of 1 seeds" in answer(write_experiment([job("dph_frozen", 0, **options)])).findings[0]
