"""Every logged number is in the one table, once, with its direction; and nothing is in the table that nobody logs."""

from __future__ import annotations

import pytest

from alignkit import metrics
from alignkit.callbacks.metrics_log import MetricsLog
from alignkit.metrics import METRICS, TRAIN, VALIDATION, metric
from alignkit.modules.alignment import SHOWN
from alignkit.run_dir import RunDir, read_jsonl

OBJECTIVES = ("sft", "bradley_terry", "dpo", "con_dph", "joint_con_dph")
"""One for each set of names; `regression` and a probe of gradients, which have names of their own, are tested where they are made, as
is what becomes of steps that diverge."""
ELSEWHERE = {"ratings/error", "gradients/cosine", "divergence/skipped", "divergence/rollbacks"}
OF_SAMPLES = ("objective/", "policy/", "value/", "rollout/", "reward/", "trust_region/", "ptx/", "seconds/")
"""Beginnings of the names that objectives on samples log; tests/modules/test_rollout_metrics.py sees that they do."""
VALIDATION_ONLY = {"rewards/calibration_error", "rewards/length_correlation", "logps/chosen_change", "logps/chosen_fell"}
PREFIXES = ("TRAIN", "VALIDATION", "TERM_LOSS", "SCORE_PART", "BENCHMARK")
"""Beginnings of names."""
STEP_ONLY = {"learning_rate", "gradient_norm", "throughput/tokens_per_second", "throughput/padding_fraction"}


@pytest.fixture(scope="module")
def constants() -> dict[str, str]:
    return {name: value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)}


def test_every_constant_is_a_name_of_its_own_and_every_name_has_a_constant(constants):
    names = [value for constant, value in constants.items() if constant not in PREFIXES]
    assert len(names) == len(set(names)) == len(METRICS)
    assert set(names) == METRICS.keys()
    assert all(entry.name == name for name, entry in METRICS.items())


def test_every_metric_has_a_direction_a_unit_and_a_meaning():
    assert len({entry.meaning for entry in METRICS.values()}) == len(METRICS)
    for entry in METRICS.values():
        assert entry.better in ("higher", "lower", "neither")
        assert entry.unit
        assert entry.meaning


@pytest.mark.parametrize(
    ("direction", "names"),
    [
        (
            "lower",
            {
                "loss",
                "ratings/error",
                "logps/chosen_fell",
                "rewards/calibration_error",
                "divergence/skipped",
                "divergence/rollbacks",
                "throughput/padding_fraction",
            },
        ),
        (
            "higher",
            {
                "rewards/margins",
                "rewards/accuracies",
                "implicit_rewards/margins",
                "implicit_rewards/accuracies",
                "token_accuracy",
                "throughput/tokens_per_second",
            },
        ),
    ],
)
def test_directions(direction, names):
    assert {name for name, entry in METRICS.items() if entry.better == direction and not name.startswith(OF_SAMPLES)} == names


def test_directions_of_samples():
    directions = {
        direction: {n for n, m in METRICS.items() if m.better == direction and n.startswith(OF_SAMPLES)}
        for direction in ("higher", "lower")
    }
    assert directions["higher"] >= {"objective/scores", "objective/rlhf_reward", "objective/gold", "rollout/terminated"}
    assert directions["lower"] >= {"value/loss", "ptx/loss", "rollout/sampler_error", "seconds/sampling", "seconds/update"}
    assert not directions["higher"] & {"objective/kl", "objective/entropy", "rollout/length", "policy/approx_kl"}


def test_the_progress_bar_shows_metrics():
    assert set(SHOWN) <= METRICS.keys()


@pytest.fixture(scope="module")
def logged(tmp_path_factory, lm_factory, examples_factory, module_factory, fit) -> dict[str, tuple[set[str], set[str]]]:
    """Names in the training rows and in the validation rows of each kind of objective, without their prefixes."""
    names = {}
    for objective in OBJECTIVES:
        run = RunDir.create(tmp_path_factory.mktemp(objective) / "run")
        module = module_factory(objective, lm_factory("gpt2"), steps=2)
        examples = examples_factory(4, completions=module.objective.form().completions)
        fit(module, examples, validation=examples, validate_every=1, logger=MetricsLog(run, steps_per_epoch=1))
        rows = [set(row) - {"step", "epoch", "time"} for row in read_jsonl(run.metrics)]
        assert all(name.startswith((TRAIN, VALIDATION)) for row in rows for name in row)
        names[objective] = tuple(
            {n.removeprefix(prefix) for row in rows for n in row if n.startswith(prefix)} for prefix in (TRAIN, VALIDATION)
        )
    return names


@pytest.mark.parametrize("objective_name", OBJECTIVES)
def test_every_logged_name_is_in_the_table(objective_name, logged):
    train, validation = logged[objective_name]
    assert all(metric(name).meaning for name in train | validation)
    assert train - validation == STEP_ONLY
    assert validation - train <= VALIDATION_ONLY


def test_every_name_in_the_table_is_logged_by_some_objective(logged):
    names = {name for rows in logged.values() for name in set().union(*rows)}
    assert names - {"loss/head", "loss/dpo"} == {name for name in METRICS.keys() - ELSEWHERE if not name.startswith(OF_SAMPLES)}


def test_a_name_of_a_term_is_that_of_the_table_with_the_term():
    assert metric("loss/nll").better == "lower"
    assert metric("harmless/rewards/margins").better == "higher"
    assert metric("harmless/rewards/margins").meaning.endswith("(harmless)")
    assert metric("scores/kindness").better == "higher"
    benchmark = metric("benchmark/arc_easy/logp_mean")
    assert (benchmark.name, benchmark.better) == ("benchmark/arc_easy/logp_mean", "higher")
    assert "arc_easy" in benchmark.meaning
    assert benchmark.meaning.endswith("by logp_mean")
    for name in ("nothing", "harmless/nothing"):
        with pytest.raises(KeyError):
            metric(name)


def test_every_preference_objective_logs_the_same_rewards(logged):
    shared = {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"}
    assert all(shared <= logged[objective][0] for objective in OBJECTIVES if objective != "sft")
    assert {"logps/chosen", "logps/rejected"} <= logged["dpo"][0] & logged["joint_con_dph"][0]
    # scores of a head and implicit rewards are never under one name
    assert not any(name.startswith("implicit") for name in logged["dpo"][0] | logged["con_dph"][0])
