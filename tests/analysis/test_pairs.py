"""Single held-out pairs of runs, and which of them their rewards contradict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from alignkit.analysis.pairs import disputed, pairs_of, sides
from alignkit.analysis.runs import Runs, load_runs
from alignkit.errors import UserError
from alignkit.run_dir import RunDir, rewrite_jsonl

MARGINS = {"a": {"x": 2.0, "y": -1.0, "z": 1.0}, "b": {"x": 40.0, "y": -80.0, "z": -10.0}, "c": {"x": 0.3, "y": 0.1, "z": -0.2}}
"""By run and prompt. Run b has rewards of another size."""


def row(prompt: str, margin: float, **more: float) -> dict[str, object]:
    texts = {"prompt": prompt, "chosen": f"{prompt} good", "rejected": f"{prompt} bad", "chosen_tokens": 3, "rejected_tokens": 5}
    return {"step": 20, **texts, "rewards/chosen": 1.0 + margin, "rewards/rejected": 1.0, **more}


@pytest.fixture
def runs(write_run: Callable[..., RunDir], tmp_path: Path) -> Runs:
    for name, margins in MARGINS.items():
        run = write_run(name, {"loss": {"name": "dpo"}})
        rewrite_jsonl(run.pairs, [row(prompt, margin) for prompt, margin in margins.items()])
    write_run("d", {"loss": {"name": "sft"}})
    return load_runs(tmp_path)


def told(runs: Runs, key: str) -> Mapping[str, object]:
    return disputed(pairs_of(runs)).set_index("prompt")[key].to_dict()


def test_every_pair_of_every_run_has_a_row(runs):
    pairs = pairs_of(runs)
    assert len(pairs) == 9
    assert {run: dict(zip(own["prompt"], own["margin"].round(9), strict=True)) for run, own in pairs.groupby("run")} == MARGINS
    both = sides(pairs)
    assert both.groupby("kind")["tokens"].unique().map(list).to_dict() == {"chosen": [3], "rejected": [5]}
    assert both[both["kind"] == "rejected"]["reward"].tolist() == [1.0] * 9


def test_pairs_that_most_runs_contradict_come_first(runs):
    assert told(runs, "against") == {"y": 2, "z": 2}
    assert told(runs, "runs") == {"y": 3, "z": 3}
    # y: -1 / sqrt(2), -80 / sqrt(8100 / 3), 0.1 / sqrt(0.14 / 3)
    assert told(runs, "margin")["y"] == pytest.approx((-1 / 2**0.5 - 80 / 2700**0.5 + 0.1 / (0.14 / 3) ** 0.5) / 3)
    assert list(told(runs, "runs")) == ["y", "z"]
    assert len(disputed(pairs_of(runs), most=1)) == 1


def test_the_share_of_runs_decides_before_the_margin(runs):
    pairs = pairs_of(runs)
    only = pairs[~((pairs["prompt"] == "z") & (pairs["run"] == "a"))]
    assert disputed(only)["prompt"].tolist() == ["z", "y"]


def test_implicit_rewards_are_those_beside_a_head(write_run, tmp_path):
    run = write_run("head", {"loss": {"name": "con_dph"}})
    rewrite_jsonl(run.pairs, [row("x", 2.0, **{"implicit_rewards/chosen": 0.5, "implicit_rewards/rejected": 1.0})])
    rewrite_jsonl(write_run("dpo", {"loss": {"name": "dpo"}}).pairs, [row("x", 2.0)])
    (pair,) = pairs_of(load_runs(tmp_path), "implicit_rewards").to_dict("records")
    assert (pair["run"], pair["margin"]) == ("head", -0.5)


def test_runs_without_pairs_are_told_what_makes_them(two_losses):
    with pytest.raises(UserError, match=r"no run of 4 has rewards of single pairs\. .*pairs\.jsonl"):
        pairs_of(two_losses)
