"""Updates on samples of which a number is not finite: named by the prompts, and left out where the run is to go on."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from alignkit.divergence_settings import STOP_AT_ONCE
from alignkit.errors import DivergedError
from alignkit.metrics import SCORES, SKIPPED_STEPS, TRAIN
from alignkit.models.reference import fingerprint
from alignkit.modules.failures import FailureFiles, read_failure
from alignkit.modules.guard import Guard
from alignkit.modules.sample_faults import SampleError
from alignkit.rollout import Rollout
from alignkit.scorers.scorer import Answers, Scores

SKIP = dataclasses.replace(STOP_AT_ONCE, action="skip")


def guarded(module: Any, settings: Any = SKIP) -> Any:
    module.guard = Guard(settings)
    return module


def weights_at_each_step(module: Any) -> list[str]:
    """Fingerprints of policy and heads when each update begins."""
    found, original = [], module.training_step

    def watched(*args: Any) -> None:
        found.append(fingerprint(module.backbone) + fingerprint(module.heads))
        original(*args)

    module.training_step = watched
    return found


def rows_of(module: Any) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    module.emit = lambda values: rows.append(dict(values))
    return rows


@pytest.fixture
def prompts(examples_factory):
    return [dataclasses.replace(example, key=example.key + 50) for example in examples_factory(12, completions=1, seed=5)]


class Moody:
    """Scores that are not finite in one update, for the samples of one prompt."""

    def __init__(self, *, call: int, prompt: int) -> None:
        self.call, self.prompt, self.calls = call, prompt, 0

    def __call__(self, answers: Answers) -> Scores:
        self.calls += 1
        total = torch.arange(len(answers.completions), dtype=torch.float32)
        if self.calls == self.call:
            total[2 * self.prompt + 1] = math.nan
        return Scores(total=total, parts={})


def test_a_score_that_is_not_finite_stops_the_run_before_anything_is_learnt_from_it(
    sampled_loss, rollout_module, fit_samples, ending_lm, prompts, tmp_path
):
    module = rollout_module(sampled_loss("ppo", epochs=1), ending_lm(), steps=3)
    module.rollouts.collector.scorer = Moody(call=2, prompt=1)
    module.failures = FailureFiles(tmp_path, decode=lambda ids: str(len(ids)), rows=lambda keys: {}, say=[].append)
    weights = weights_at_each_step(module)
    with pytest.raises(
        DivergedError, match=r"^step 2: the score of a sample is nan \(example (\d+)\)\. The weights are those of step 1"
    ) as caught:
        fit_samples(module, prompts)
    assert fingerprint(module.backbone) + fingerprint(module.heads) == weights[1] != weights[0]
    failure = read_failure(tmp_path / "step-000002")
    key = module.trainer.datamodule.steps.global_batch(1)[1] + 50
    assert failure.keys == (key,)
    assert f"(example {key})" in str(caught.value)
    assert len(failure.prompts) == 4
    assert sorted(place for share in failure.shares for batch in share.batches for place in batch.example_keys) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["ppo", "rloo", "trpo"])
def test_an_update_with_such_a_score_is_left_out_whole(name, sampled_loss, rollout_module, fit_samples, ending_lm, prompts):
    kinds = {}
    if name == "trpo":
        from alignkit.modules.trpo import TRPOModule

        kinds["kind"] = TRPOModule
    changes = {} if name == "trpo" else {"epochs": 1}
    module = guarded(rollout_module(sampled_loss(name, **changes), ending_lm(), steps=3, **kinds))
    module.rollouts.collector.scorer = Moody(call=2, prompt=0)
    weights, rows = weights_at_each_step(module), rows_of(module)
    fit_samples(module, prompts)
    assert weights[0] != weights[1] == weights[2]
    assert [row[TRAIN + SKIPPED_STEPS] for row in rows] == [0, 1, 1]
    assert [TRAIN + SCORES in row for row in rows] == [True, False, True]
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_a_loss_that_is_not_finite_ends_its_update_with_the_weights_of_the_minibatch_before(
    sampled_loss, rollout_module, fit_samples, ending_lm, prompts
):
    def after(poisoned: bool) -> str:
        module = guarded(rollout_module(sampled_loss("ppo", epochs=2, minibatches=2), ending_lm(), steps=1))
        original, calls = module.step, []

        def step(optimizer: Any, losses: list[Tensor], *rest: Any) -> bool:
            calls.append(len(losses))
            if not poisoned:
                return original(optimizer, losses, *rest) if len(calls) == 1 else False
            return original(optimizer, [loss * (math.nan if len(calls) == 2 else 1.0) for loss in losses], *rest)

        module.step = step
        fit_samples(module, prompts[:4])
        assert len(calls) == 2, "the third and fourth minibatch hold the same samples"
        assert module.guard.skipped == poisoned
        return fingerprint(module.backbone) + fingerprint(module.heads)

    assert after(poisoned=True) == after(poisoned=False)


def test_a_value_that_is_not_finite_is_named(sampled_loss, rollout_module, fit_samples, ending_lm, prompts):
    module = rollout_module(sampled_loss("ppo", epochs=1), ending_lm(), steps=1)
    with torch.no_grad():
        module.heads.head("value").score.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"^step 1: the value of a sampled token is nan \(examples 5\d, 5\d, 5\d, 5\d\)"):
        fit_samples(module, prompts[:4])


def test_which_number_of_which_prompt_it_is(examples_factory):
    from alignkit.modules.sample_faults import check_tokens

    examples = tuple(examples_factory(3, completions=2, seed=1))
    count = sum(len(ids) for example in examples for ids in example.completion_ids)
    first = sum(map(len, examples[0].completion_ids))
    clean = Rollout(
        examples=examples,
        sampled_logps=torch.zeros(count),
        scores=torch.zeros(6),
        logps=torch.zeros(count),
        reference_logps=torch.zeros(count),
        values=None,
    )
    check_tokens(clean)
    broken = clean.reference_logps.clone()
    broken[[first, -1]] = math.inf
    with pytest.raises(SampleError, match="the log-prob under the reference of a sampled token is inf") as caught:
        check_tokens(dataclasses.replace(clean, reference_logps=broken))
    assert caught.value.places == (1, 2)


def test_what_one_rank_has_found_is_the_same_on_another(examples_factory):
    import pickle

    error = SampleError("scorer: nan.", why="the score is nan", examples=tuple(examples_factory(2)), places=(1,))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.why, again.examples, again.places) == (str(error), error.why, error.examples, error.places)
