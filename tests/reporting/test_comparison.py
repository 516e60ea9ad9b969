from __future__ import annotations

from pathlib import Path

import pandas as pd

from alignkit.analysis.runs import load_runs
from alignkit.reporting.comparison import ABSENT_KEY, compare, naming_keys, sorted_labels


def test_keys_that_others_fix_name_no_group() -> None:
    labels = pd.DataFrame(
        {
            "loss.name": ["dpo", "dpo", "kto", "kto"],
            "loss.beta": ["0.1", "0.5", "0.1", "0.5"],
            "loss.weight": [ABSENT_KEY, ABSENT_KEY, "1", "1"],
            "model.path": ["a/0", "b/0", "c/1", "d/1"],
            "seed": ["0", "0", "1", "1"],
        }
    )
    keys, following = naming_keys(labels)
    assert keys == ("loss.name", "loss.beta")
    assert following == {"loss.weight": "loss.name", "model.path": "loss.name and loss.beta"}


def test_a_path_that_differs_by_seed_does_not_part_the_seeds_of_a_setting() -> None:
    labels = pd.DataFrame({"loss.beta": ["0.1", "0.1", "0.5", "0.5"], "model.path": ["a", "b", "c", "d"], "seed": ["0", "1", "0", "1"]})
    assert naming_keys(labels) == (("loss.beta",), {"model.path": "loss.beta and seed"})


def test_a_key_that_happens_to_go_with_the_seed_is_no_seed() -> None:
    labels = pd.DataFrame({"loss.beta": ["0.1", "0.5"], "seed": ["0", "1"]})
    assert naming_keys(labels) == (("loss.beta",), {})


def test_differences_are_told_apart_from_what_is_common(tmp_path: Path, run_maker) -> None:
    for number, (name, extra) in enumerate((("dpo", {}), ("cdpo", {"epsilon": 0.1}), ("cdpo", {"epsilon": 0.2}))):
        run_maker(
            tmp_path / f"{number}", config={"loss": {"name": name, "beta": 0.1, **extra}, "seed": number, "model": {"layers": [1, 2]}}
        )
    comparison = compare(load_runs(tmp_path))
    assert comparison.keys == ("loss.name", "loss.epsilon")
    assert comparison.columns == ("loss.name", "loss.epsilon", "seed")
    assert comparison.labels.at["0", "loss.epsilon"] == ABSENT_KEY
    assert comparison.group("1") == "loss.name=cdpo, loss.epsilon=0.1"
    assert dict(comparison.common)["model.layers"] == "[1, 2]"
    assert dict(comparison.common)["loss.beta"] == "0.1"


def test_a_key_of_some_runs_says_so(tmp_path: Path, run_maker) -> None:
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}})
    run_maker(tmp_path / "b", config={"loss": {"name": "cdpo", "epsilon": 0.1}})
    assert dict(compare(load_runs(tmp_path)).common)["loss.epsilon"] == "0.1 (in 1 of 2 runs)"


def test_labels_are_sorted_by_size_then_by_name() -> None:
    assert sorted_labels(["10", "9", "null", ABSENT_KEY, "0.5", "abc", "9"]) == ["0.5", "9", "10", "abc", "null", ABSENT_KEY]
