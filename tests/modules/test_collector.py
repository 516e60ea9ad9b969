"""What samples are worth, and that what is known of them is in their order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from alignkit.batches import PackedBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.losses.rollout_outputs import PolicyTokens
from alignkit.metrics import CLIPPED_SCORES, LENGTH, LENGTH_PENALTY, SCORE_PART, TERMINATED, TERMINATOR_PENALTY
from alignkit.modules.collector import Collector, Writing
from alignkit.rollout_settings import RewardSettings
from alignkit.sampling.sampler import Sample
from alignkit.scorers.scorer import Answers, Scores

PROMPTS = [EncodedExample(key=key, prompt_ids=ids, completion_ids=((2,),)) for key, ids in ((7, (10, 11)), (3, (12,)))]
COMPLETIONS = [[(20, 21, 2), (22,)], [(2,), (23, 24)]]


class Fixed:
    """Always the same samples; token n is drawn with log-prob -n."""

    def __call__(self, prompts: Sequence[Sequence[int]], *, samples: int, seed: int) -> list[list[Sample]]:
        assert [list(prompt) for prompt in prompts] == [[10, 11], [12]]
        return [[Sample(ids=ids, logps=tuple(-float(n) for n in ids)) for ids in own] for own in COMPLETIONS]


class Given:
    """Scores that are known."""

    def __init__(self, *scores: float, **parts: list[float]) -> None:
        self.scores, self.parts = scores, parts
        self.seen: list[Answers] = []

    def __call__(self, answers: Answers) -> Scores:
        self.seen.append(answers)
        return Scores(total=torch.tensor(self.scores), parts={name: torch.tensor(part) for name, part in self.parts.items()})


def read(batch: PackedBatch) -> tuple[PolicyTokens, torch.Tensor]:
    """Ten times what it was drawn with, and the tokens themselves as values."""
    ids = batch.target_ids.float()
    return PolicyTokens(logps=-10 * ids, values=ids), -ids / 2


def collect(tokenizer, scorer: Given, **reward: float):
    settings = RewardSettings(**{"clip": None, "length_penalty": 0.0, "missing_terminator_penalty": 0.0, **reward})
    writing = Writing(tokenizer=tokenizer, terminator=2, packing=Packing(layout="packed", tokens=6, row_tokens=6))
    collector = Collector(sampler=Fixed(), scorer=scorer, reward=settings, writing=writing)
    return collector(PROMPTS, samples=2, seed=0, read=read, device=torch.device("cpu"))


@pytest.fixture
def tokenizer(tokenizer_factory):
    return tokenizer_factory()


def test_everything_that_is_known_of_tokens_is_in_the_order_of_the_samples(tokenizer):
    rollout = collect(tokenizer, Given(1, 2, 3, 4)).rollout
    assert [example.completion_ids for example in rollout.examples] == [tuple(own) for own in COMPLETIONS]
    tokens = torch.tensor([20.0, 21, 2, 22, 2, 23, 24])
    assert torch.equal(rollout.sampled_logps, -tokens)
    assert torch.equal(rollout.logps, -10 * tokens)
    assert torch.equal(rollout.values, tokens)
    assert torch.equal(rollout.reference_logps, -tokens / 2)
    assert rollout.scores.tolist() == [1, 2, 3, 4]


def test_scorers_read_prompts_and_completions_as_text_and_know_who_ended(tokenizer):
    scorer = Given(1, 2, 3, 4)
    collected = collect(tokenizer, scorer)
    (answers,) = scorer.seen
    assert answers.prompts == ("w10 w11", "w12")
    assert answers.completions == ("w20 w21", "w22", "", "w23 w24")
    assert collected.metrics[LENGTH].tolist() == [3, 1, 1, 2]
    assert collected.metrics[TERMINATED].tolist() == [1, 0, 1, 0]
    assert collected.metrics.keys() == {LENGTH, TERMINATED}, "what is off is not logged"
    assert collected.seconds.keys() == {"sampling", "scoring"}


def test_scores_are_clipped_before_penalties_are_taken(tokenizer):
    collected = collect(tokenizer, Given(1, -3, 0.5, 2), clip=1.5, length_penalty=0.1, missing_terminator_penalty=1)
    # 1 - .3, -1.5 - .1 - 1, .5 - .1, 1.5 - .2 - 1
    assert collected.rollout.scores.tolist() == pytest.approx([0.7, -2.6, 0.4, 0.3])
    assert collected.metrics[CLIPPED_SCORES].tolist() == [0, 1, 0, 1]
    assert collected.metrics[LENGTH_PENALTY].tolist() == pytest.approx([0.3, 0.1, 0.1, 0.2])
    assert collected.metrics[TERMINATOR_PENALTY].tolist() == [0, 1, 0, 1]


def test_parts_of_a_score_are_logged_by_their_names(tokenizer):
    metrics = collect(tokenizer, Given(1, 2, 3, 4, tone=[0.0, 1, 2, 3])).metrics
    assert metrics[SCORE_PART + "tone"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_with_the_text(bad, tokenizer):
    with pytest.raises(UserError, match=rf"^scorer: the score of 'w23 w24' is {bad}, not a finite number\.$"):
        collect(tokenizer, Given(1, 2, 3, bad))
