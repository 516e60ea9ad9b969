import hashlib
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.examples import PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.sources.reviews import Reviews
from alignkit.errors import UserError
from alignkit.lab.gold import GoldReward

DEFAULTS = dataset_settings(packaged("dataset")["reviews"], []).options


def reviews(**changes: Any) -> Reviews:
    return Reviews(**{**DEFAULTS, **changes})


def digest(examples: list[PreferenceExample]) -> str:
    told = hashlib.sha256()
    for example in examples:
        ratings = {attribute: list(values) for attribute, values in example.ratings.items()}
        feedback = [example.margin, ratings, list(example.ranks), list(example.desirable), example.source]
        told.update(json.dumps([example.prompt, list(example.completions), *feedback]).encode())
    return told.hexdigest()


@pytest.mark.parametrize(
    ("seed", "train", "validation"),
    [
        (
            0,
            "340fe5c87705a771a17c0e2b1c32bacbc7e2da4098a66bdb109332173319a8f9",
            "f9700727f612f44076b737b4a1ef19ae56c9fc535512181d81e7ec1c833f07d6",
        ),
        (
            1,
            "32e0aa93a92112b293ed04435ac3c7343e41cb2aadb9420ff47f3d6b2ac3e020",
            "927dcf99cb987ec63119d80eeab513f79cb86ca2713b9a74f96eb1f8edaa6302",
        ),
    ],
)
def test_the_first_examples_of_the_defaults_never_change(seed: int, train: str, validation: str) -> None:
    # The embedded model was made on them, and numbers that were measured depend on them. Digests of before there was a choice of
    # answers, length bias and prompts.
    source = reviews(world_seed=seed)
    assert (digest(source.train()[:64]), digest(source.validation(64))) == (train, validation)


def is_flipped(example: PreferenceExample) -> bool:
    assert isinstance(example.prompt, str)
    chosen, rejected = GoldReward().score([example.prompt] * 2, example.completions)
    return chosen < rejected


def test_training_and_validation_have_as_many_examples_as_asked_for() -> None:
    source = reviews(pairs=37, noise=0.1, world_seed=0)
    assert len(source.train()) == 37
    assert len(source.validation(11)) == 11


def test_an_example_is_one_prompt_with_two_different_completions() -> None:
    for example in reviews(pairs=50, noise=0.1, world_seed=0).train():
        assert isinstance(example.prompt, str)
        assert len(set(example.completions)) == 2
        assert all(completion.startswith(" ") for completion in example.completions)
        assert example.margin > 0.1


def test_labels_are_flipped_at_the_rate_of_the_noise() -> None:
    pairs, noise = 1500, 0.3
    flips = sum(map(is_flipped, reviews(pairs=pairs, noise=noise, world_seed=0).train()))
    assert abs(flips - noise * pairs) < 4 * math.sqrt(pairs * noise * (1 - noise))


def test_validation_labels_are_clean_whatever_the_noise() -> None:
    assert not any(map(is_flipped, reviews(pairs=1, noise=0.5, world_seed=0).validation(300)))


def test_noise_zero_flips_nothing() -> None:
    assert not any(map(is_flipped, reviews(pairs=300, noise=0.0, world_seed=0).train()))


def test_noise_changes_labels_only_and_more_noise_flips_more() -> None:
    clean, some, more = (reviews(pairs=200, noise=noise, world_seed=4).train() for noise in (0.0, 0.2, 0.4))
    for before, after in zip(clean, more, strict=True):
        assert (before.prompt, before.margin, sorted(before.completions)) == (after.prompt, after.margin, sorted(after.completions))
    flipped = [{index for index, example in enumerate(examples) if is_flipped(example)} for examples in (some, more)]
    assert set() < flipped[0] < flipped[1]


def test_more_pairs_begin_with_the_same_pairs() -> None:
    assert reviews(pairs=60, noise=0.2, world_seed=0).train()[:20] == reviews(pairs=20, noise=0.2, world_seed=0).train()


def test_validation_prompts_are_never_training_prompts() -> None:
    source = reviews(pairs=1000, noise=0.1, world_seed=0)
    assert not {example.prompt for example in source.train()} & {example.prompt for example in source.validation(500)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pairs": 0}, r"dataset\.pairs = 0; must be a number in \[1, inf\)"),
        ({"noise": 0.6}, r"dataset\.noise = 0\.6; must be a number in \[0, 0\.5\]"),
        ({"noise": -0.1}, r"dataset\.noise = -0\.1"),
        ({"world_seed": -1}, r"dataset\.world_seed = -1"),
        ({"answers": 0}, r"dataset\.answers = 0; must be a number in \[1, 8\]"),
        ({"length_bias": 1.1}, r"dataset\.length_bias = 1\.1"),
        ({"prompts": "shiftet"}, r"dataset\.prompts = 'shiftet'; must be one of usual, shifted\. Did you mean 'shifted'\?"),
        ({"validation_prompts": "other"}, r"dataset\.validation_prompts = 'other'"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reviews(**setting)


def test_the_source_loads_without_torch() -> None:
    code = "import sys, alignkit.data.sources.reviews; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ratings_stay_with_their_texts_where_a_label_is_flipped():
    clean, noisy = (reviews(pairs=40, noise=noise, world_seed=0).train() for noise in (0.0, 0.5))
    flipped = [(one, other) for one, other in zip(clean, noisy, strict=True) if one.completions != other.completions]
    assert flipped
    for one, other in flipped:
        assert dict(zip(one.completions, one.ratings["overall"], strict=True)) == dict(
            zip(other.completions, other.ratings["overall"], strict=True)
        )
        assert one.ratings["overall"][0] > one.ratings["overall"][1]


def test_a_share_of_training_labels_goes_by_length_and_held_out_labels_do_not() -> None:
    def longer_chosen(examples: list[PreferenceExample]) -> float:
        pairs = [[len(completion.split()) for completion in example.completions] for example in examples]
        unequal = [chosen > rejected for chosen, rejected in pairs if chosen != rejected]
        return sum(unequal) / len(unequal)

    source = reviews(pairs=600, noise=0.0, length_bias=1.0)
    assert longer_chosen(source.train()) == 1.0
    # Gold does not know of length: four standard errors of one half.
    assert abs(longer_chosen(source.validation(600)) - 0.5) < 0.09
    assert abs(longer_chosen(reviews(pairs=600, noise=0.0, length_bias=0.5).train()) - 0.75) < 0.09
    assert not any(map(is_flipped, source.validation(100)))


def test_length_bias_changes_labels_only() -> None:
    for before, after in zip(reviews(pairs=50, noise=0.0).train(), reviews(pairs=50, noise=0.0, length_bias=1.0).train(), strict=True):
        assert (before.prompt, before.margin, sorted(before.completions)) == (after.prompt, after.margin, sorted(after.completions))


def test_rankings_hold_the_pairs_and_objectives_on_pairs_read_best_and_worst() -> None:
    pairs, rankings = reviews(pairs=40, noise=0.0).train(), reviews(pairs=40, noise=0.0, answers=4).train()
    for pair, ranking in zip(pairs, rankings, strict=True):
        assert ranking.prompt == pair.prompt
        assert set(pair.completions) < set(ranking.completions)
        assert ranking.ratings["overall"] == tuple(sorted(ranking.ratings["overall"], reverse=True))
        assert Form.pairs().of(ranking).completions == (ranking.completions[0], ranking.completions[-1])
        assert Form.rankings().of(ranking).completions == ranking.completions


def test_one_answer_is_a_text_to_imitate() -> None:
    texts, pairs = reviews(pairs=30, answers=1).train(), reviews(pairs=30).train()
    for example, pair in zip(texts, pairs, strict=True):
        assert len(example.completions) == 1
        assert example.prompt == pair.prompt
        assert example.completions[0] in pair.completions


def test_prompts_are_chosen_for_training_and_for_validation() -> None:
    usual, shifted, out = (
        reviews(pairs=50, **changes)
        for changes in ({}, {"prompts": "shifted", "validation_prompts": "shifted"}, {"validation_prompts": "shifted"})
    )
    assert out.train() == usual.train() != shifted.train()
    assert out.validation(50) == shifted.validation(50) != usual.validation(50)
