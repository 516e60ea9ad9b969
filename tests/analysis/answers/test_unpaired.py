"""Gold rewards of unpaired feedback that are known."""

from __future__ import annotations

import pytest

from alignkit.analysis.answers.unpaired import answer

GOLD = {("sft", 0.5): 0.3, ("kto", 0.5): 0.7, ("sft", 0.0909): 0.25, ("kto", 0.0909): 0.2, ("kto_weighted", 0.0909): 0.6}


def experiment(*left_out):
    jobs = []
    for (method, share), gold in GOLD.items():
        for seed in (0, 1, 2):
            config = {"seed": seed, "dataset": {"desirable_share": share}}
            results = {"val/objective/gold": gold + seed / 10, "start/val/objective/gold": 0.1, "val/objective/kl": 10 * gold}
            if method not in left_out:
                jobs.append({"arm": method, "stages": {"policy": {"config": config, "results": results}}})
    return jobs


def test_methods_are_compared_at_equal_labels_and_weights_at_equal_rarity(write_experiment):
    told = answer(write_experiment(experiment()))
    rows = told.table.set_index(["method", "desirable"])
    assert rows.loc[("kto", "50%"), "gold"] == pytest.approx(0.8)
    text = "\n".join(told.findings)
    assert "With 50% desirable, the gold reward of kto is higher than that of sft: 0.40 [0.40, 0.40] at equal seeds." in text
    assert "With 9% desirable, the gold reward of kto is lower than that of sft: -0.05" in text
    assert "kto: its gold reward with 9% desirable is lower than that with 50%: -0.50" in text
    assert "the gold reward of kto_weighted is higher than that of kto, which is not weighted: 0.40" in text
    assert "6.0 nats of kto_weighted, 2.0 of kto" in text


def test_what_was_not_run_is_not_spoken_of(write_experiment):
    text = "\n".join(answer(write_experiment(experiment("sft", "kto_weighted"))).findings)
    assert "sft" not in text
    assert "weighted" not in text
    assert "kto: its gold reward" in text
