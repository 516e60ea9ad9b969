"""An ensemble says what each of its heads says alone, and reads the trunk once."""

from __future__ import annotations

import json

import pytest
import torch

from alignkit.errors import UserError
from alignkit.models.reference import fingerprint
from alignkit.scorers.ensemble import Ensemble
from alignkit.scorers.head import Head
from alignkit.scorers.scorer import Answers

MEMBERS = {"reward": {}, "reward_1": {}, "reward_2": {"pooler": "bert", "layers": [1, -1], "tokens": "attention"}}


def ensemble(run, **changes) -> Ensemble:
    return Ensemble(**{"path": str(run.path), "heads": [], "normalized": True, **changes})


def alone(run, name: str, surroundings, answers, *, normalized: bool = True):
    return Head(path=str(run.path), head=name, normalized=normalized).open(surroundings())(answers).total


def test_members_are_the_heads_and_the_total_is_their_mean(write_run, surroundings, answers):
    run, *_ = write_run(**MEMBERS)
    scores = ensemble(run).open(surroundings())(answers)
    assert list(scores.parts) == list(MEMBERS)
    for name, said in scores.parts.items():
        torch.testing.assert_close(said, alone(run, name, surroundings, answers), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.total, sum(scores.parts.values()) / 3, rtol=0, atol=1e-6)
    assert torch.stack(list(scores.parts.values())).std(0).min() > 0.01


def test_some_of_the_heads_are_chosen_by_name(write_run, surroundings, answers):
    run, *_ = write_run(**MEMBERS)
    scores = ensemble(run, heads=["reward_2", "reward"]).open(surroundings())(answers)
    assert list(scores.parts) == ["reward_2", "reward"]
    torch.testing.assert_close(scores.parts["reward_2"], alone(run, "reward_2", surroundings, answers), rtol=0, atol=1e-5)


def test_each_head_has_the_gain_and_bias_that_are_stored_with_it(write_run, surroundings, answers):
    run, *_ = write_run(reward={}, reward_1={})
    entries = json.loads(run.heads_description.read_text())
    entries["reward_1"] |= {"gain": 2.0, "bias": -1.0}
    run.heads_description.write_text(json.dumps(entries))
    plain, scaled = (ensemble(run, normalized=on).open(surroundings())(answers).parts for on in (False, True))
    torch.testing.assert_close(scaled["reward_1"], 2 * plain["reward_1"] - 1)
    assert torch.equal(scaled["reward"], plain["reward"])


def test_the_trunk_is_read_once_for_all_heads(write_run, surroundings, answers):
    run, backbone, _ = write_run(**MEMBERS)
    read = []

    class Trunk:
        def hidden_layers(self, batch, layers):
            read.append(batch.completions)
            with torch.no_grad():
                return backbone.hidden_layers(batch, layers)

    own = surroundings(trunk=Trunk(), trunk_fingerprint=fingerprint(backbone))
    ensemble(run).open(own)(answers)
    assert sum(read) == len(answers.completions)


def test_no_answers_have_no_scores(write_run, surroundings):
    run, *_ = write_run(**MEMBERS)
    scores = ensemble(run).open(surroundings())(Answers(examples=(), prompts=(), completions=(), terminator=2))
    assert scores.total.shape == (0,)
    assert {part.shape for part in scores.parts.values()} == {(0,)}


@pytest.mark.parametrize(
    ("heads", "changes", "words"),
    [
        ({"reward": {}}, {}, "has one head, reward. Type scorer=head, or train loss=reward_ensemble"),
        (MEMBERS, {"heads": ["reward"]}, "scorer.heads = ['reward']; must be two or more different heads"),
        (MEMBERS, {"heads": ["reward", "reward"]}, "must be two or more different heads"),
        (MEMBERS, {"heads": ["reward", "reward_7"]}, "scorer.head = 'reward_7'; must be one of reward, reward_1, reward_2"),
        (MEMBERS, {"path": "nowhere"}, "scorer.path = 'nowhere': there is no such folder"),
        ({}, {}, "the run trained no head"),
    ],
)
def test_what_is_no_ensemble_is_refused(write_run, surroundings, heads, changes, words):
    run, *_ = write_run(**heads)
    with pytest.raises(UserError) as refused:
        ensemble(run, **changes).open(surroundings())
    assert words in str(refused.value)


def test_heads_that_read_different_ends_are_refused(write_run, surroundings):
    run, *_ = write_run(reward={}, reward_1={})
    entries = json.loads(run.heads_description.read_text())
    entries["reward_1"]["terminator_id"] = 5
    run.heads_description.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="in training completions ended in different tokens"):
        ensemble(run).open(surroundings())
