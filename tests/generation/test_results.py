"""Numbers of generate runs: unbiased, with their uncertainty. Facts 4.11, and enumeration."""

from __future__ import annotations

import itertools
import math
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.generation.answered import AnsweredPrompt
from alignkit.generation.results import competitors, gold_of_best, results_of, results_table
from alignkit.metrics import GOLD, LENGTH, SCORES, SCORES_STD, TERMINATED


def answered(scores: tuple[float, ...] | None, gold: tuple[float, ...] | None = None, count: int = 0) -> AnsweredPrompt:
    count = len(scores) if scores is not None else count
    measured = {LENGTH: tuple(map(float, range(count))), TERMINATED: (1.0,) * count}
    return AnsweredPrompt(prompt="p", completions=(" a",) * count, scores=scores, gold=gold, measured=measured)


def test_the_best_of_n_is_that_of_the_fact_sheet_with_its_bound() -> None:
    results = results_of([answered((0.9, 0.1, 0.5, 0.4))])
    assert results["best_of_1/score"] == pytest.approx(0.475, abs=1e-12)
    assert results["best_of_2/score"] == pytest.approx(0.6833333333, abs=1e-9)
    assert results["best_of_4/score"] == pytest.approx(0.9, abs=1e-12)
    assert results["best_of_2/kl_bound"] == pytest.approx(0.1931471806, abs=1e-9)
    assert math.isnan(float(results[SCORES + "_ci95"])), "one prompt says nothing of others"  # type: ignore[arg-type]


def test_prompts_count_alike_and_give_the_interval() -> None:
    prompts = [(0.0, 0.2), (1.0, 0.6), (0.4, 0.4)]
    results = results_of([answered(scores) for scores in prompts])
    means = [fmean(scores) for scores in prompts]
    assert results[SCORES] == pytest.approx(fmean(means))
    assert results[SCORES + "_ci95"] == pytest.approx(1.959964 * stdev(means) / math.sqrt(3))
    assert results[SCORES_STD] == pytest.approx(float(torch.tensor(prompts).std(correction=0)))
    assert results[LENGTH] == 0.5


def test_all_samples_compete_besides_powers_of_two() -> None:
    assert [competitors(samples) for samples in (1, 4, 6)] == [[1], [1, 2, 4], [1, 2, 4, 6]]


@given(
    samples=st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=6),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_gold_of_the_best_is_what_enumeration_gives(samples: list[tuple[int, float]], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(samples)))
    chosen = []
    for subset in itertools.combinations(samples, n):
        best = max(score for score, _ in subset)
        chosen.append(fmean(gold for score, gold in subset if score == best))
    scores, gold = (torch.tensor([values], dtype=torch.float64) for values in zip(*samples, strict=True))
    assert float(gold_of_best(scores.double(), gold, n)) == pytest.approx(fmean(chosen), abs=1e-9)


def test_a_proxy_that_opposes_gold_is_over_optimised_from_the_first_choice() -> None:
    results = results_of([answered((0.1, 0.2, 0.3, 0.4), gold=(4.0, 3.0, 2.0, 1.0))] * 2)
    assert [results[f"best_of_{n}/gold"] for n in (1, 2, 4)] == pytest.approx([2.5, 5 / 3, 1.0])
    assert results[GOLD] == 2.5
    assert results[GOLD + "_ci95"] == 0.0


def test_where_nobody_scores_lengths_are_told_and_nothing_competes() -> None:
    results = results_of([answered(None, count=2)])
    assert results[LENGTH] == 0.5
    assert not [name for name in results if name.startswith("best_of") or SCORES in name]
    assert results_of([]) == {}


def test_the_table_has_a_row_for_each_mean_and_each_count() -> None:
    results = {
        **results_of([answered((0.9, 0.1), gold=(1.0, 2.0))] * 2),
        "prompts": 2,
        "peak_memory_bytes": 2**30,
        "policy_fingerprint": "x",
    }
    table = results_table(results)
    rows = dict(zip(map(str, table.columns[0].cells), table.columns[1].cells, strict=True))
    assert rows["score of a sample"] == "0.5"
    assert rows["gold score of the best of 2"] == "1"
    assert rows["prompts"] == "2"
    assert rows["peak_memory"] == "1.00 GiB"
    assert "score of the best of 1" not in rows, "that is a sample"
    assert "policy_fingerprint" not in rows
