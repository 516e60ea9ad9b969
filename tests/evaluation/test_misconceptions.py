"""TruthfulQA's answers as candidates of one question, and what two models' log-probs of them say."""

from __future__ import annotations

import pytest

from alignkit.data.rows import DroppedRow, RowError
from alignkit.evaluation.cost_measures import CORRECT_LOGPS, FALSE_LOGPS, MISLED
from alignkit.evaluation.misconceptions import Misconceptions, misconception_changes
from alignkit.evaluation.scoring import ScoredQuestion
from alignkit.evaluation_settings import LOGP_MEAN, LOGP_SUM

ROW = {
    "Question": "Do pigs fly?",
    "Best Answer": "No",
    "Correct Answers": "No; They do not; No",
    "Incorrect Answers": "Yes; Only at night;",
    "Source": "nowhere",
}


def test_all_answers_of_a_question_are_its_candidates() -> None:
    question = Misconceptions().to_example(ROW)
    assert question.prompt == "Q: Do pigs fly?\nA:"
    assert question.candidates == (" No", " They do not", " Yes", " Only at night")
    assert question.correct == (0, 1)


def test_a_question_without_false_answers_asks_nothing() -> None:
    with pytest.raises(DroppedRow, match="empty"):
        Misconceptions().to_example({**ROW, "Incorrect Answers": " ; "})
    with pytest.raises(RowError, match="'Correct Answers' is null"):
        Misconceptions().to_example({**ROW, "Correct Answers": None})


def scored(means: tuple[float, ...], sums: tuple[float, ...]) -> ScoredQuestion:
    return ScoredQuestion(key=0, scores={LOGP_MEAN: means, LOGP_SUM: sums}, lengths=(1,) * len(means))


def test_answers_count_alike_and_questions_count_alike() -> None:
    two = Misconceptions().to_example({**ROW, "Correct Answers": "No", "Incorrect Answers": "Yes"})
    questions = [Misconceptions().to_example(ROW), two]
    before = [scored((-1, -3, -2, -4), (-1, -9, -2, -8)), scored((-1, -2), (-3, -3))]
    after = [scored((-1, -3, -1, -3), (-2, -9, -1, -8)), scored((-1, -2), (-4, -3))]
    changes = misconception_changes(questions, before, after)
    # False answers: (-2 - 4) / 2 = -3 and -2; then (-1 - 3) / 2 = -2 and -2.
    assert (changes[FALSE_LOGPS].before.value, changes[FALSE_LOGPS].after.value) == (-2.5, -2.0)
    assert changes[CORRECT_LOGPS].before.value == (-2 - 1) / 2
    assert changes[CORRECT_LOGPS].change.value == 0
    # Best of each side as a whole: -1 against -2, and a tie; then -2 against -1, and -4 against -3.
    assert (changes[MISLED].before.value, changes[MISLED].after.value) == (0.25, 1.0)
    # Differences of the two questions: 1 and 1/2.
    assert changes[MISLED].change.standard_error == pytest.approx(0.25)
