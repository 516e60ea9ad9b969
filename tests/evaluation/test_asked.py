"""Benchmarks by name, as a model reads them, and what a scorer made of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from alignkit.data.encoding import Encoder
from alignkit.data.question_rows import Questions
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluation.asked import Asked, ask
from alignkit.evaluation.grading import grade
from alignkit.evaluation.scoring import OTHER, ScoredQuestion
from alignkit.evaluation.tasks.arc_easy import ARCEasy
from alignkit.evaluation.tasks.catalogue import find_task, task_kinds
from alignkit.evaluation.tasks.task import Task

Characters = Callable[..., PreTrainedTokenizerFast]


def question(text: str, *candidates: str, correct: int = 0, given: Sequence[str] = ()) -> Question:
    return Question(prompt=text, candidates=candidates or (" a", " b"), correct=(correct,), given=tuple(given))


@pytest.fixture
def asked(tokenizer_factory: Callable[..., PreTrainedTokenizerFast]) -> Callable[..., Asked]:
    """Asks in words `w3` to `w96`, with `</s>` for a control token."""

    def build(*questions: Question, max_length: int = 100) -> Asked:
        encoder = Encoder(tokenizer_factory(), format="auto", max_length=max_length, overflow="trim")
        read = Questions(questions=list(questions), counts=Counter(rows=len(questions) + 1, no_answer=1))
        return ask("arc_easy", find_task("arc_easy", "here", listed=None), read, encoder, "evaluation.tasks")

    return build


# By name


def test_a_task_is_the_one_public_class_of_its_module() -> None:
    assert type(find_task("arc_easy", "here", listed=None)) is ARCEasy
    assert len(set(task_kinds().values())) == len(task_kinds())
    assert all(issubclass(kind, Task) and kind.__module__.rpartition(".")[2] == name for name, kind in task_kinds().items())


def test_listing_is_passed_on() -> None:
    assert [find_task("arc_easy", "here", listed=listed).lists for listed in (None, False, True)] == [False, False, True]
    assert [find_task("race", "here", listed=listed).lists for listed in (None, False, True)] == [True, False, True]
    assert not find_task("cola", "here", listed=True).lists, "yes and no are not listed"


def test_an_unknown_task_is_answered_with_the_setting_and_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"^some\.tasks = 'helaswag'; must be one of arc_challenge, .*Did you mean 'hellaswag'\?$"):
        find_task("helaswag", "some.tasks", listed=None)


# As a model reads them


def test_questions_that_cannot_be_encoded_are_left_out_and_counted_as_questions(asked: Callable[..., Asked]) -> None:
    first, last = question("w5", " w6", " w7"), question("w8", " w9", " w10", " w11")
    one = asked(first, question("w5 </s> w6", " w7", " w8"), question("", " w7", " w8"), last)
    assert one.questions == [first, last]
    assert [encoded.key for encoded in one.encoded] == [0, 3]
    assert one.counts == {"rows": 5, "no_answer": 1, "special_token_in_text": 1, "empty_prompt": 1, "trimmed_prompts": 0}


def test_trimmed_prompts_are_counted_once_a_question(asked: Callable[..., Asked]) -> None:
    one = asked(question(" ".join(f"w{n}" for n in range(5, 30)), " w6", " w7 w8"), question("w5", " w6", " w7"), max_length=12)
    assert one.counts["trimmed_prompts"] == 1
    assert all(
        len(example.prompt_ids) + len(ids) <= 12 for own in one.encoded for example in own.examples for ids in example.completion_ids
    )


def test_when_nothing_can_be_asked_it_is_said_why(asked: Callable[..., Asked]) -> None:
    with pytest.raises(UserError) as caught:
        asked(question("w5 </s>"), question("w6 </s>"))
    assert str(caught.value) == "evaluation.tasks: no question of arc_easy can be encoded (special_token_in_text 2)."


# What a scorer made of them


def scored(*scores: Sequence[float], name: str = "dph") -> list[ScoredQuestion]:
    return [ScoredQuestion(key=key, scores={name: tuple(own)}, lengths=tuple(range(1, len(own) + 1))) for key, own in enumerate(scores)]


def test_each_question_keeps_its_own_number_of_candidates() -> None:
    questions = [question("p", " a", " b"), question("q", " a", " b", " c", " d", " e", " f", correct=4)]
    graded = grade("stsb", questions, scored((0.1, 0.2), (1, 2, 3, 4, 9, 5)), "dph")
    assert [own.tolist() for own in graded.scores] == [[0.1, 0.2], [1, 2, 3, 4, 9, 5]]
    assert [own.tolist() for own in graded.lengths] == [[1, 2], [1, 2, 3, 4, 5, 6]]
    assert graded.credits.tolist() == [0.0, 1.0]
    assert graded.predicted.tolist() == [1, 4]
    assert graded.gold.tolist() == [0, 4]


def test_a_scorer_that_says_the_same_of_all_is_as_good_as_chance() -> None:
    questions = [question("p", " a", " b", " c", " d", correct=place) for place in range(4)]
    assert grade("arc_easy", questions, scored(*[(0.5,) * 4] * 4), "dph").credits.tolist() == [0.25] * 4
    assert grade("arc_easy", questions[:1], scored((0.5, 0.5, 0.1, 0.2)), "dph").credits.tolist() == [0.5]


def test_a_scorer_that_is_no_part_of_the_model_goes_under_its_own_name() -> None:
    assert grade("arc_easy", [question("p")], scored((1.0, 2.0), name=OTHER), "vader").scores[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(wrong: float) -> None:
    questions = [question("p"), question("q"), question("r")]
    with pytest.raises(UserError) as caught:
        grade("boolq", questions, scored((1.0, wrong), (0.0, 1.0), (wrong, wrong)), "dph")
    assert str(caught.value) == "scorer = dph: says what is no finite number of 2 of 3 questions of boolq."
