import itertools
import re
from collections import Counter

import numpy as np
import pytest

from alignkit.lab import lexicon
from alignkit.lab.gold import GoldReward
from alignkit.lab.grammar import Draft, Joint
from alignkit.lab.lexicon import Number, Part
from alignkit.lab.reviews import PROMPTS, SHIFTED_PROMPTS, Prompt, ReviewsWorld

WORLD = ReviewsWorld(seed=0)
SHIFTED = ReviewsWorld(seed=0, prompts="shifted")
PARTS = [value for value in vars(lexicon).values() if isinstance(value, Part)]


@pytest.fixture(scope="module")
def reviews() -> list[str]:
    return [WORLD.text(index) for index in range(10_000)]


@pytest.fixture(scope="module")
def drafts() -> list[tuple[Prompt, Draft, Draft]]:
    prompts = [WORLD.prompt(index, split="validation") for index in range(1500)]
    return [(prompt, WORLD.draft(prompt, 0), WORLD.draft(prompt, 1)) for prompt in prompts]


def gold(completion: str) -> float:
    return GoldReward().score([""], [completion])[0]


def test_an_example_depends_on_seed_split_and_index_alone() -> None:
    forwards = [WORLD.pair(index) for index in range(20)]
    backwards = [ReviewsWorld(seed=0).pair(index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    prompt = WORLD.prompt(3)
    assert [WORLD.completion(prompt, draw) for draw in (5, 0)] == [WORLD.completion(WORLD.prompt(3), draw) for draw in (0, 5)][::-1]


def test_seed_split_index_and_draw_each_make_a_difference() -> None:
    assert len({WORLD.text(3), WORLD.text(4), WORLD.text(3, split="validation"), ReviewsWorld(seed=1).text(3)}) == 4
    prompt = WORLD.prompt(3)
    assert len({WORLD.completion(prompt, draw) for draw in range(50)}) == 50


def test_ten_thousand_reviews_hold_many_more_than_five_thousand_distinct_sentences(reviews: list[str]) -> None:
    sentences = {sentence for review in reviews for sentence in re.split(r"(?<=[.:]) ", review)}
    completions = {sentence for sentence in sentences if '"' not in sentence}
    assert len(completions) > 10_000
    assert len(set(reviews)) == len(reviews)


@pytest.mark.parametrize("seed", [0, 1])
def test_training_and_validation_share_no_prompt_and_no_title_but_all_title_words(seed: int) -> None:
    world = ReviewsWorld(seed=seed)
    prompts = {split: {world.prompt(index, split=split).text for index in range(4000)} for split in ("train", "validation")}
    assert not prompts["train"] & prompts["validation"]
    titles = {split: {re.sub("^(The|An?|Beyond the) ", "", text.split('"')[1]) for text in texts} for split, texts in prompts.items()}
    assert not titles["train"] & titles["validation"]
    words = {split: {word for title in those for word in title.split()} for split, those in titles.items()}
    assert words["validation"] == words["train"] == {*lexicon.TITLE_ADJECTIVES, *lexicon.TITLE_NOUNS}


def test_a_completion_continues_its_prompt(drafts: list[tuple[Prompt, Draft, Draft]]) -> None:
    for prompt, draft, _ in drafts:
        assert not prompt.text.endswith(" ")
        assert re.match(r" [^ ]", draft.text)
        assert draft.text.endswith(".")
        assert (prompt.text[-1] in ".:") == (prompt.joint is Joint.SENTENCE)
        starts_with_capital = draft.text[1].isupper() and not draft.text.startswith(" I ")
        assert not starts_with_capital or prompt.joint is Joint.SENTENCE


def test_completions_are_short(drafts: list[tuple[Prompt, Draft, Draft]]) -> None:
    lengths = [len(draft.text.split()) for _, draft, _ in drafts]
    assert min(lengths) >= 12
    assert max(lengths) <= 50
    assert sum(length <= 40 for length in lengths) > 0.98 * len(lengths)


MISTAKES = {
    "two spaces": r"  ",
    "an unfilled slot": r"[{}()]",
    "a before a vowel": r"\b[Aa] [aeiouAEIOU]",
    "an before a consonant": r"\b[Aa]n (?!honest)[^aeiouAEIOU]",
    "a before a silent h": r"\b[Aa] honest",
    "a word said twice": r"\b(\w+) \1\b",
    "a sentence in lower case": r"\. [a-z]",
    "space before punctuation": r" [.,:;]",
    "doubled punctuation": r"[.,:;]{2}",
    "the wrong case of I": r"\bi\b",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_english_has_no_mistake_a_pattern_can_see(mistake: str, reviews: list[str]) -> None:
    assert [review for review in reviews if re.search(MISTAKES[mistake], review)] == []


def test_verbs_agree_with_their_subjects(reviews: list[str]) -> None:
    def names(plural: bool) -> str:
        return "|".join(part.name for part in PARTS if (part.number is Number.PLURAL) == plural)

    wrong = re.compile(
        rf"\bthe ({names(True)}) (is|has|remains|works|adds|falls|fails)\b|\bthe ({names(False)}) (are|have|remain|work|add|fall|fail)\b",
        re.I,
    )
    assert [review for review in reviews if wrong.search(review)] == []


def test_negation_contrast_and_degree_are_common(reviews: list[str]) -> None:
    patterns = {
        "negation": r"\b(not|never|no|none|cannot)\b",
        "contrast": r"\b(although|while|but|yet|despite|even)\b",
        "degree": r"\b(utterly|very|fairly|slightly|remarkably|rather)\b",
        "recommendation": r"\b(recommend|worth|avoid|miss)\b",
    }
    shares = {name: sum(bool(re.search(pattern, review, re.I)) for review in reviews) / len(reviews) for name, pattern in patterns.items()}
    assert all(share > 0.1 for share in shares.values()), shares


def test_verdicts_are_balanced_and_a_good_share_is_mixed(drafts: list[tuple[Prompt, Draft, Draft]]) -> None:
    verdicts = Counter("good" if draft.intent > 1 else "bad" if draft.intent < -1 else "mixed" for _, draft, _ in drafts)
    assert all(count > 0.2 * len(drafts) for count in verdicts.values()), verdicts


@pytest.mark.parametrize("joint", Joint)
def test_every_prompt_leaves_the_verdict_open(joint: Joint) -> None:
    prompts = [prompt for prompt in map(WORLD.prompt, range(60)) if prompt.joint is joint][:8]
    for prompt in prompts:
        scores = [gold(WORLD.completion(prompt, draw)) for draw in range(60)]
        assert min(scores) < -0.6
        assert max(scores) > 0.6
        assert any(abs(score) < 0.4 for score in scores)


def test_the_gold_reward_orders_completions_as_their_writer_meant(drafts: list[tuple[Prompt, Draft, Draft]]) -> None:
    meant = [(left, right) for _, left, right in drafts if abs(left.intent - right.intent) >= 1]
    agreeing = sum((left.intent - right.intent) * (gold(left.text) - gold(right.text)) > 0 for left, right in meant)
    assert agreeing > 0.92 * len(meant)


def test_a_pair_has_the_better_completion_first_by_a_clear_gap() -> None:
    for index in range(300):
        example = WORLD.pair(index)
        chosen, rejected = map(gold, example.completions)
        assert example.margin == pytest.approx(chosen - rejected)
        assert example.margin > 0.1


@pytest.mark.parametrize("answers", [1, 2, 4, 8])
def test_answers_stand_in_the_order_of_gold_with_clear_gaps(answers: int) -> None:
    for index in range(100):
        example = WORLD.example(index, answers=answers)
        scores = [gold(completion) for completion in example.completions]
        assert list(example.ratings["overall"]) == scores
        assert len(scores) == answers
        assert all(better - worse > 0.1 for better, worse in itertools.pairwise(scores))
        assert example.margin == scores[0] - scores[-1]


def test_more_answers_are_those_of_fewer_and_some_more() -> None:
    for index in range(50):
        one, two, four = (set(WORLD.example(index, answers=answers).completions) for answers in (1, 2, 4))
        assert one < two < four
        assert WORLD.text(index) == WORLD.prompt(index).text + one.pop()


def test_gold_does_not_know_how_long_a_completion_is() -> None:
    completions = [WORLD.completion(WORLD.prompt(index), 0) for index in range(4000)]
    words, scores = [len(completion.split()) for completion in completions], [gold(completion) for completion in completions]
    # Four standard errors of a correlation that is zero: 4 / sqrt(4000).
    assert abs(np.corrcoef(words, scores)[0, 1]) < 0.063
    assert np.std(words) > 5  # there are lengths to prefer


def test_shifted_prompts_have_nothing_but_titles_in_common_with_usual_ones() -> None:
    assert not {pattern for pattern, _ in PROMPTS} & {pattern for pattern, _ in SHIFTED_PROMPTS}
    assert {joint for _, joint in SHIFTED_PROMPTS} == set(Joint)
    usual, shifted = ([world.prompt(index).text for index in range(3000)] for world in (WORLD, SHIFTED))
    for told, others in ((lexicon.KINDS, shifted), (lexicon.SHIFTED_KINDS, usual)):
        assert not [prompt for prompt in others for kind in told if re.search(rf"\b{kind.label}\b", prompt)]
    for subjects, others in ((lexicon.SUBJECTS, shifted), (lexicon.SHIFTED_SUBJECTS, usual)):
        assert not [prompt for prompt in others for subject in subjects if subject in prompt]


def test_shifted_held_out_prompts_have_held_out_titles() -> None:
    def titles(world: ReviewsWorld, split: str) -> set[str]:
        return {world.prompt(index, split=split).text.split('"')[1] for index in range(2000)}  # type: ignore[arg-type]

    assert not titles(SHIFTED, "validation") & (titles(WORLD, "train") | titles(SHIFTED, "train"))


def test_shifted_reviews_are_proper_text_with_verdicts_of_both_kinds() -> None:
    prompts = [SHIFTED.prompt(index) for index in range(1500)]
    texts = [prompt.text + SHIFTED.completion(prompt, 0) for prompt in prompts]
    assert {
        mistake: found for mistake, pattern in MISTAKES.items() if (found := [text for text in texts if re.search(pattern, text)])
    } == {}
    assert all((prompt.text[-1] in ".:") == (prompt.joint is Joint.SENTENCE) for prompt in prompts)
    scores = [gold(SHIFTED.completion(prompt, 0)) for prompt in prompts]
    assert 0.4 < sum(score > 0 for score in scores) / len(scores) < 0.6


def test_what_is_said_of_a_shifted_prompt_is_drawn_apart_from_the_usual_one_of_its_index() -> None:
    pairs = [[gold(world.completion(world.prompt(index), 0)) for world in (WORLD, SHIFTED)] for index in range(1000)]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.126  # four standard errors: 4 / sqrt(1000)
