"""RewardBench: its rows, and that the score is the one that its authors publish."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

from alignkit.data.examples import Message
from alignkit.data.rows import DroppedRow, RowError
from alignkit.evaluation.grading import Graded
from alignkit.evaluation.measures import score_of
from alignkit.evaluation.results import evaluate
from alignkit.evaluation.tasks.reward_bench import RewardBench

TASK = RewardBench()
ROW = {"prompt": "1+1?", "chosen": "2", "rejected": "3", "subset": "math-prm", "id": 4}
SIZES = {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1431}
"""Pairs of the split `filtered`, by section: 2985 in all."""


def graded(accuracies: Mapping[str, float], rows: int = 20) -> Graded:
    """So many pairs of each subset, of which a share is scored right."""
    questions, scores = [], []
    for subset in TASK.WEIGHTS:
        for row in range(rows):
            questions.append(TASK.to_example({**ROW, "prompt": f"{subset} {row}", "subset": subset}))
            scores.append(np.array([1.0, 0.0] if row < round(accuracies.get(subset, 1.0) * rows) else [0.0, 1.0]))
    return Graded(questions=tuple(questions), scores=tuple(scores), lengths=tuple(np.array([1, 2]) for _ in questions))


def test_a_row_asks_for_the_chosen_answer_in_a_dialogue() -> None:
    question = TASK.to_example(ROW)
    assert question.prompt == (Message(role="user", content="1+1?"),)
    assert (question.candidates, question.correct, question.group) == (("2", "3"), (0,), "math-prm")


@pytest.mark.parametrize(
    ("wrong", "score"),
    [
        ({"math-prm": 0.0}, (3 + 984 / 1968) / 4),  # as much as all code, whatever its rows
        ({"hep-go": 0.0}, (3 + 1 - 164 / 1968) / 4),
        ({"xstest-should-respond": 0.0}, (3 + 1 - 250 / 740) / 4),
        ({"mt-bench-easy": 0.5}, (3 + 1 - 14 / 358) / 4),
        ({"mt-bench-hard": 0.0, "llmbar-natural": 0.5}, (3 + 1 - (37 + 50) / 456) / 4),
    ],
)
def test_sections_weigh_their_subsets_and_the_score_is_their_mean(wrong: Mapping[str, float], score: float) -> None:
    assert score_of(TASK, graded(wrong)) == pytest.approx(score, abs=1e-12)


def test_sections_and_score_are_those_of_the_authors_formula() -> None:
    draw = random.Random(0)
    accuracies = {subset: draw.randint(0, 20) / 20 for subset in TASK.WEIGHTS}
    result = evaluate(TASK, graded(accuracies), resamples=100, seed=0)
    # calculate_scores_per_section of rewardbench, with the counts of the data card and code's in the place of math-prm's.
    counts = {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40}
    chat = sum(accuracies[subset] * count for subset, count in counts.items()) / 358
    code = [accuracies[f"hep-{language}"] for language in ("cpp", "go", "java", "js", "python", "rust")]
    assert result.sections["Chat"].score.value == pytest.approx(chat)
    assert result.sections["Reasoning"].score.value == pytest.approx((accuracies["math-prm"] + sum(code) / 6) / 2)
    assert result.score.value == pytest.approx(np.mean([section.score.value for section in result.sections.values()]))
    assert list(result.sections) == list(SIZES)


def test_every_pair_of_the_filtered_split_counts_but_those_of_math() -> None:
    for section, subsets in TASK.SECTIONS.items():
        weights = [TASK.WEIGHTS[subset] for subset in subsets]
        assert sum(weights) == pytest.approx(1)
        size = SIZES[section] + (984 - 447 if section == "Reasoning" else 0)
        counts = [weight * size for weight in weights]
        assert counts == pytest.approx([round(count) for count in counts])
    assert sum(map(len, TASK.SECTIONS.values())) == len(TASK.WEIGHTS) == 23


def test_a_subset_that_is_none_is_refused() -> None:
    with pytest.raises(RowError, match=r"'mt-bench-medium'; must be one of RewardBench's. Did you mean 'mt-bench-med'\?"):
        TASK.to_example({**ROW, "subset": "mt-bench-medium"})


@pytest.mark.parametrize(("rejected", "reason"), [(" 2\n", "identical"), ("  ", "empty")])
def test_pairs_that_compare_nothing_are_dropped(rejected: str, reason: str) -> None:
    with pytest.raises(DroppedRow) as dropped:
        TASK.to_example({**ROW, "rejected": rejected})
    assert dropped.value.reason == reason
