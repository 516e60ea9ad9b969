"""Scorers of text alone: VADER, a pattern, a length, a function of the user's own, and weighted sums of them."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from alignkit.errors import UserError
from alignkit.lab.gold import GoldReward
from alignkit.scorers.length import Length
from alignkit.scorers.python import Python
from alignkit.scorers.regex import Regex
from alignkit.scorers.vader import Vader
from alignkit.scorers.weighted import Weighted

REVIEWS = ["The script is good.", "The script is never clever.", "It is about two brothers."]


def test_vader_is_the_gold_reward_of_the_reviews_world() -> None:
    assert Vader().score(["p"] * 3, REVIEWS) == GoldReward().score(["p"] * 3, REVIEWS)
    # The lexicon gives `good` 1.9: 1.9 / sqrt(1.9^2 + 15) = 0.4404.
    assert Vader().score(["p"], ["The script is good."]) == [0.4404]


def test_a_text_scorer_scores_answers_in_their_order(answers) -> None:
    scorer = Length(target=2)
    scores = scorer.open(None)(answers)
    # w8 w9 | nothing | w12 w13 w14 | w15 | w15
    assert scores.total.tolist() == [0, -2, -1, -1, -1]
    assert scores.total.dtype == torch.float32
    assert scores.parts == {}


def test_a_text_scorer_sees_the_prompt_of_each_completion(answers, rewards) -> None:
    rewards("def pairs(prompts, completions):\n    return [len(p.split()) + 10 * len(c.split()) for p, c in zip(prompts, completions)]")
    # Prompts are w5 w6 w7 and w10 w11.
    assert Python(callable="my_rewards.pairs")(answers).total.tolist() == [23, 3, 32, 12, 12]


def test_a_pattern_is_searched_for_anywhere_in_the_completion() -> None:
    scorer = Regex(pattern=r"(?i)\bthe end\b", found=2.0, missing=-1.0)
    assert scorer.score(["the end"] * 3, ["... The End.", "the ending", ""]) == [2.0, -1.0, -1.0]


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<n>a)(?P<n>b)"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=rf"^scorer\.pattern = {re.escape(repr(pattern))}; must be a regular expression, but .* Try "):
        Regex(pattern=pattern, found=1.0, missing=0.0)


def test_the_target_length_scores_highest() -> None:
    texts = [" ".join(["word"] * count) for count in range(7)]
    assert Length(target=3).score([""] * 7, texts) == [-3, -2, -1, 0, -1, -2, -3]
    with pytest.raises(UserError, match=r"^scorer\.target = -1"):
        Length(target=-1)


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the module `my_rewards`."""
    from alignkit.scorers.python import _load

    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> None:
        (tmp_path / "my_rewards.py").write_text(textwrap.dedent(source))

    yield write
    _load.cache_clear()
    sys.modules.pop("my_rewards", None)


def test_a_class_is_made_once_and_asked_for_scores(rewards) -> None:
    rewards("""
        class Counting:
            made = 0
            def __init__(self):
                type(self).made += 1
                self.asked = 0
            def score(self, prompts, completions):
                self.asked += 1
                return [self.made + 10 * self.asked for _ in completions]
    """)
    scorer = Python(callable="my_rewards.Counting")
    assert scorer.score(["a", "b"], ["c", "d"]) == [11, 11]
    assert scorer.score(["a"], ["c"]) == [21]


@pytest.mark.parametrize(
    "returned", ["[1, 2.5]", "(1, 2.5)", "torch.tensor([1, 2.5])", "numpy.array([1, 2.5])", "(n for n in (True, 2.5))"]
)
def test_whatever_holds_numbers_is_taken(rewards, returned: str) -> None:
    assert np is not None
    rewards(f"import numpy, torch\ndef f(prompts, completions):\n    return {returned}")
    assert Python(callable="my_rewards.f").score(["", ""], ["", ""]) == [1.0, 2.5]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "must give a list of 2 numbers, one for each completion; gave None"),
        ("1.0", "must give a list of 2 numbers.*; gave 1.0"),
        ("'ab'", "must give a list of 2 numbers.*; gave 'ab'"),
        ("{'a': 1, 'b': 2}", "must give a list of 2 numbers"),
        ("[1.0]", r"must give one number for each of 2 completions; gave 1: \[1\.0\]"),
        ("[1.0, 2.0, 3.0]", "gave 3"),
        ("[1.0, '2']", "must give finite numbers; gave '2' for completion 2 of 2"),
        ("[float('nan'), 1.0]", "must give finite numbers; gave nan for completion 1 of 2"),
        ("[1.0, float('inf')]", "gave inf for completion 2"),
        ("torch.ones(2, 2)", r"gave \[1\.0, 1\.0\] for completion 1"),
        ("torch.tensor(1.0)", "must give a list of 2 numbers"),
    ],
)
def test_what_a_callable_returns_wrongly_is_told(rewards, returned: str, message: str) -> None:
    rewards(f"import torch\ndef f(prompts, completions):\n    return {returned}")
    with pytest.raises(UserError, match=rf"^scorer\.callable = 'my_rewards\.f': .*{message}"):
        Python(callable="my_rewards.f").score(["", ""], ["", ""])


def test_a_long_answer_is_quoted_in_part(rewards) -> None:
    rewards("def f(prompts, completions):\n    return list(range(1000))")
    with pytest.raises(UserError, match=r"gave 1000: \[0, 1, .*\.\.\.\.$") as caught:
        Python(callable="my_rewards.f").score([""], [""])
    assert len(str(caught.value)) < 400


def test_what_a_callable_raises_is_left_to_its_author(rewards) -> None:
    rewards("def f(prompts, completions):\n    raise KeyError('mine')")
    with pytest.raises(KeyError, match="mine"):
        Python(callable="my_rewards.f").score([""], [""])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_rewards.pollite", r"my_rewards has no 'pollite'\. Did you mean 'polite'\?"),
        ("my_rewards.NUMBER", r"must be a function, or a class with score\(prompts, completions\); it is 3"),
        ("my_rewards.Empty", "must be a function, or a class with score"),
        ("no_such_module.f", "there is no module no_such_module"),
        ("my_rewards.inner.f", "there is no module my_rewards"),
    ],
)
def test_a_callable_that_is_none_is_refused_when_the_scorer_is_made(rewards, name: str, message: str) -> None:
    rewards("NUMBER = 3\nclass Empty: pass\ndef polite(prompts, completions): return []")
    with pytest.raises(UserError, match=rf"^scorer\.callable = '{re.escape(name)}': {message}"):
        Python(callable=name)
    with pytest.raises(UserError, match=r"^scorer\.callable = 'f'; must be the dotted path"):
        Python(callable="f")


def test_a_module_of_the_users_that_imports_nothing_that_is_there_keeps_its_error(rewards) -> None:
    rewards("import no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        Python(callable="my_rewards.f")


def test_a_sum_weighs_its_parts_and_keeps_each(answers) -> None:
    parts = {"near": (0.5, Length(target=2)), "w15": (-2.0, Regex(pattern="w15", found=1.0, missing=0.0)), "seen": (0.0, Length(target=0))}
    scores = Weighted(parts=parts).open(None)(answers)
    assert scores.total.tolist() == [0, -1, -0.5, -2.5, -2.5]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "near": [0, -2, -1, -1, -1],
        "w15": [0, 0, 0, 1, 1],
        "seen": [-2, 0, -3, -1, -1],
    }


def test_a_part_that_cannot_be_opened_is_named(surroundings, tmp_path) -> None:
    from alignkit.scorers.head import Head

    with pytest.raises(UserError, match=rf"^scorer\.parts\.model: scorer\.path = '{tmp_path}': holds no model/ folder"):
        Weighted(parts={"model": (1.0, Head(path=str(tmp_path), head=None, normalized=True))}).open(surroundings())
