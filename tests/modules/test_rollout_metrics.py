"""Every name that objectives on samples log is in the table, and every such name of the table is logged by one of them."""

from __future__ import annotations

import pytest

from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.metrics import METRICS, TRAIN, VALIDATION, metric
from alignkit.run_dir import RunDir, read_jsonl

OF_SAMPLES = ("objective/", "policy/", "value/", "rollout/", "reward/", "trust_region/", "ptx/", "seconds/")
SHARED = {"learning_rate", "gradient_norm", "throughput/tokens_per_second"}
SHORT = [
    "steps=2",
    "schedule.warmup_steps=0",
    "validation.every=2",
    "validation.samples=0",
    "dataset.pairs=12",
    "dataset.validation_examples=3",
    "batch.pairs=3",
    "rollout.samples=2",
    "rollout.max_tokens=6",
    "logger=jsonl",
    "logger.every=1",
    "callbacks.checkpoints=false",
    "callbacks.progress_bar=false",
]
RUNS = {
    "ppo": [
        "loss=ppo",
        "loss.ptx_coefficient=0.1",
        "rollout.reuse=1",
        "scorer=weighted",
        "scorer.parts={tone: {scorer: vader}, short: {scorer: length, target: 3, weight: 0.1}}",
        "reward.clip=0.5",
        "reward.length_penalty=0.01",
        "reward.missing_terminator_penalty=0.1",
        "validation.gold=vader",
    ],
    "trpo": ["loss=trpo", "scorer=vader"],
}


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, set[str]]:
    found = {}
    for name, overrides in RUNS.items():
        (settings,) = precheck([*SHORT, *overrides])
        run = RunDir.create(tmp_path_factory.mktemp(name) / "run")
        carry_out(settings, run)
        rows = [set(row) - {"step", "epoch", "time"} for row in read_jsonl(run.metrics)]
        assert all(key.startswith((TRAIN, VALIDATION)) for row in rows for key in row)
        found[name] = {key.removeprefix(TRAIN).removeprefix(VALIDATION) for row in rows for key in row}
    return found


@pytest.mark.parametrize("name", RUNS)
def test_every_logged_name_is_in_the_table(name, names):
    assert all(metric(key).meaning for key in names[name])


def test_every_name_of_the_table_is_logged(names):
    logged = set().union(*names.values())
    assert {key for key in METRICS if key.startswith(OF_SAMPLES)} == {key for key in logged if key.startswith(OF_SAMPLES)}
    assert logged - SHARED - METRICS.keys() == {"scores/tone", "scores/short"}
