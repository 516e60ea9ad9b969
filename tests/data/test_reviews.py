import math
import subprocess
import sys
from typing import Any

import pytest

from alignkit.data.examples import PreferenceExample
from alignkit.data.sources.reviews import Reviews
from alignkit.errors import UserError
from alignkit.lab.gold import GoldReward


def is_flipped(example: PreferenceExample) -> bool:
    assert isinstance(example.prompt, str)
    chosen, rejected = GoldReward().score([example.prompt] * 2, example.completions)
    return chosen < rejected


def test_training_and_validation_have_as_many_examples_as_asked_for() -> None:
    source = Reviews(pairs=37, noise=0.1, world_seed=0)
    assert len(source.train()) == 37
    assert len(source.validation(11)) == 11


def test_an_example_is_one_prompt_with_two_different_completions() -> None:
    for example in Reviews(pairs=50, noise=0.1, world_seed=0).train():
        assert isinstance(example.prompt, str)
        assert len(set(example.completions)) == 2
        assert all(completion.startswith(" ") for completion in example.completions)
        assert example.margin > 0.1


def test_labels_are_flipped_at_the_rate_of_the_noise() -> None:
    pairs, noise = 1500, 0.3
    flips = sum(map(is_flipped, Reviews(pairs=pairs, noise=noise, world_seed=0).train()))
    assert abs(flips - noise * pairs) < 4 * math.sqrt(pairs * noise * (1 - noise))


def test_validation_labels_are_clean_whatever_the_noise() -> None:
    assert not any(map(is_flipped, Reviews(pairs=1, noise=0.5, world_seed=0).validation(300)))


def test_noise_zero_flips_nothing() -> None:
    assert not any(map(is_flipped, Reviews(pairs=300, noise=0.0, world_seed=0).train()))


def test_noise_changes_labels_only_and_more_noise_flips_more() -> None:
    clean, some, more = (Reviews(pairs=200, noise=noise, world_seed=4).train() for noise in (0.0, 0.2, 0.4))
    for before, after in zip(clean, more, strict=True):
        assert (before.prompt, before.margin, sorted(before.completions)) == (after.prompt, after.margin, sorted(after.completions))
    flipped = [{index for index, example in enumerate(examples) if is_flipped(example)} for examples in (some, more)]
    assert set() < flipped[0] < flipped[1]


def test_more_pairs_begin_with_the_same_pairs() -> None:
    assert Reviews(pairs=60, noise=0.2, world_seed=0).train()[:20] == Reviews(pairs=20, noise=0.2, world_seed=0).train()


def test_validation_prompts_are_never_training_prompts() -> None:
    source = Reviews(pairs=1000, noise=0.1, world_seed=0)
    assert not {example.prompt for example in source.train()} & {example.prompt for example in source.validation(500)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pairs": 0}, r"dataset\.pairs = 0; must be a number in \[1, inf\)"),
        ({"noise": 0.6}, r"dataset\.noise = 0\.6; must be a number in \[0, 0\.5\]"),
        ({"noise": -0.1}, r"dataset\.noise = -0\.1"),
        ({"world_seed": -1}, r"dataset\.world_seed = -1"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reviews(**{"pairs": 10, "noise": 0.1, "world_seed": 0, **setting})


def test_the_source_loads_without_torch() -> None:
    code = "import sys, alignkit.data.sources.reviews; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ratings_stay_with_their_texts_where_a_label_is_flipped():
    clean, noisy = (Reviews(pairs=40, noise=noise, world_seed=0).train() for noise in (0.0, 0.5))
    flipped = [(one, other) for one, other in zip(clean, noisy, strict=True) if one.completions != other.completions]
    assert flipped
    for one, other in flipped:
        assert dict(zip(one.completions, one.ratings["overall"], strict=True)) == dict(
            zip(other.completions, other.ratings["overall"], strict=True)
        )
        assert one.ratings["overall"][0] > one.ratings["overall"][1]
