import math
from itertools import chain

import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from alignkit.lab import lexicon
from alignkit.lab.gold import GoldReward
from alignkit.lab.lexicon import Part, Words
from alignkit.lab.reviews import ReviewsWorld

WORDS = [
    *(value.adjectives for value in vars(lexicon).values() if isinstance(value, Part)),
    *(kind.adjectives for kind in (*lexicon.KINDS, *lexicon.SHIFTED_KINDS)),
    *(lexicon.SCENE, lexicon.CHOICE, lexicon.MANNER, lexicon.THINGS, lexicon.FELT),
    Words(good=(*lexicon.VIRTUES, *lexicon.PART_VIRTUES, *lexicon.FEEL), bad=()),
]


def score(completion: str, prompt: str = "") -> float:
    return GoldReward().score([prompt], [completion])[0]


def test_scores_are_those_of_vader_itself() -> None:
    world, vader = ReviewsWorld(seed=7), SentimentIntensityAnalyzer()
    prompts = [world.prompt(index) for index in range(100)]
    completions = [world.completion(prompt, 0) for prompt in prompts]
    scores = GoldReward().score([prompt.text for prompt in prompts], completions)
    assert scores == [vader.polarity_scores(completion)["compound"] for completion in completions]
    assert all(-1 <= score <= 1 for score in scores)


def test_one_word_scores_its_valence_over_the_norm() -> None:
    # VADER's lexicon gives `good` 1.9: 1.9 / sqrt(1.9^2 + 15) = 1.9 / 4.3139 = 0.4404.
    assert score("The script is good.") == pytest.approx(1.9 / math.sqrt(1.9**2 + 15), abs=1e-4) == 0.4404


def test_a_text_without_sentiment_scores_zero() -> None:
    assert score("The film is about two brothers.") == 0.0


def test_negation_degree_and_contrast_count() -> None:
    assert score("The script is never dull.") > 0 > score("The script is never clever.")
    assert score("The script is utterly dull.") < score("The script is dull.") < score("The script is slightly dull.")
    assert score("The acting is good, but the script is bad.") < 0 < score("The script is bad, but the acting is good.")


def test_the_prompt_does_not_count() -> None:
    assert score("The script is good.", prompt="A terrible war.") == score("The script is good.", prompt="A lovely film.")


def test_prompts_and_completions_must_pair_up() -> None:
    with pytest.raises(ValueError, match="1 prompts for 2 completions"):
        GoldReward().score(["a"], ["b", "c"])


def test_vader_knows_every_word_of_praise_and_blame() -> None:
    valence = SentimentIntensityAnalyzer().lexicon
    assert {word for word in chain.from_iterable(words.good for words in WORDS) if valence.get(word, 0) <= 0} == set()
    assert {word for word in chain.from_iterable(words.bad for words in WORDS) if valence.get(word, 0) >= 0} == set()
