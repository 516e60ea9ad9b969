"""KL estimates and variety of held-out samples, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from alignkit.data.examples import EncodedExample
from alignkit.modules.held_out import distinctness, divergence
from alignkit.rollout import Rollout


def rollout_of(*completions: list[tuple[float, float]]) -> Rollout:
    """Samples of one prompt each, whose tokens have these log-probs under policy and reference."""
    tokens = [token for completion in completions for token in completion]
    examples = [EncodedExample(key=key, prompt_ids=(5,), completion_ids=(tuple(range(len(own))),)) for key, own in enumerate(completions)]
    policy, reference = (torch.tensor(column) for column in zip(*tokens, strict=True))
    scores = torch.zeros(len(completions))
    return Rollout(examples=tuple(examples), sampled_logps=policy, scores=scores, logps=policy, reference_logps=reference, values=None)


def test_k1_and_k3_are_sums_over_tokens_and_means_over_samples() -> None:
    half = math.log(2)  # x = log pi - log ref: k1 is x, k3 is e^-x - 1 + x
    told = divergence(rollout_of([(-1.0, -1.0 - half), (-2.0, -2.0 + half)], [(-1.0, -1.0 - 2 * half)], [(-3.0, -3.0)]))
    k1 = [0.0, 2 * half, 0.0]  # the first sample's two tokens: x = ln 2 and - ln 2
    k3 = [(0.5 - 1 + half) + (2 - 1 - half), 0.25 - 1 + 2 * half, 0.0]
    for name, values in (("objective/kl", k1), ("objective/kl_k3", k3)):
        mean = sum(values) / 3
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        assert told[name] == pytest.approx(mean, abs=1e-6)
        assert told[f"{name}_standard_error"] == pytest.approx(spread / math.sqrt(3), abs=1e-6)
    # -log ref of the four tokens: 1 + ln 2, 2 - ln 2, 1 + 2 ln 2, 3
    assert told["objective/reference_nll"] == pytest.approx((7 + 2 * half) / 4, abs=1e-6)


def test_one_sample_has_no_standard_error() -> None:
    told = divergence(rollout_of([(-1.0, -2.0)]))
    assert told["objective/kl"] == 1.0
    assert math.isnan(told["objective/kl_standard_error"])


@pytest.mark.parametrize(
    ("texts", "one", "two"),
    [
        (["a b c", "D e"], 1.0, 1.0),
        (["great great great great"], 1 / 4, 1 / 3),
        (["good film", "Good film"], 2 / 4, 1 / 2),
        (["one", "two"], 1.0, math.nan),  # pairs do not reach over the end of a text
        (["", " "], math.nan, math.nan),
    ],
)
def test_distinct_words_and_pairs_over_all_of_them(texts: list[str], one: float, two: float) -> None:
    told = distinctness(texts)
    assert told["rollout/distinct_1"] == pytest.approx(one, nan_ok=True)
    assert told["rollout/distinct_2"] == pytest.approx(two, nan_ok=True)
