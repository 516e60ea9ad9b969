"""RM-Bench: the order of its candidates, its domains, and that the score is its authors'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignkit.data.examples import Message
from alignkit.data.question_rows import read_questions
from alignkit.data.rows import RowError
from alignkit.evaluation.grading import Graded
from alignkit.evaluation.measures import score_of
from alignkit.evaluation.tasks.rm_bench import RMBench

TASK = RMBench()
ROW = {"domain": "chat", "prompt": "1+1?", "chosen": ["2", "It is 2.", "**2**"], "rejected": ["3", "It is 3.", "**3**"]}
SIZES = {"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157}
"""Questions of the whole benchmark, 1327."""


def test_chosen_answers_come_first_and_both_go_from_concise_to_fancy() -> None:
    question = TASK.to_example(ROW)
    assert question.prompt == (Message(role="user", content="1+1?"),)
    assert question.candidates == ("2", "It is 2.", "**2**", "3", "It is 3.", "**3**")
    assert (question.correct, question.group) == ((0, 1, 2), "chat")


@pytest.mark.parametrize(
    ("fields", "group"),
    [
        ({"domain": "safety-refuse"}, "safety-refuse"),
        ({"domain": None, "subset": "bigcode/humanevalpack"}, "code"),
        ({"domain": None, "subset": "xstest-should-respond"}, "safety-response"),
        ({"domain": None, "subset": "some of MATH"}, "math"),
        ({"domain": None}, ""),
    ],
)
def test_rows_say_their_domain_or_where_they_are_from(fields: dict[str, object], group: str) -> None:
    assert TASK.to_example({**ROW, **fields}).group == group


@pytest.mark.parametrize("chosen", [["a", "b"], ["a", "b", 3], "abc", []])
def test_other_numbers_of_styles_are_refused(chosen: object) -> None:
    with pytest.raises(RowError, match="'chosen'"):
        TASK.to_example({**ROW, "chosen": chosen})


def test_the_score_is_the_authors_over_four_domains() -> None:
    generator = np.random.default_rng(0)
    domains = [domain for domain, size in SIZES.items() for _ in range(size)]
    table = generator.normal(size=(len(domains), 6))
    table[:, :3] += 0.5 * np.array([len(domain) % 3 for domain in domains])[:, None]  # so that domains differ
    questions = tuple(TASK.to_example({**ROW, "prompt": str(place), "domain": domain}) for place, domain in enumerate(domains))
    lengths = tuple(np.arange(1, 7) for _ in questions)
    graded = Graded(questions=questions, scores=tuple(table), lengths=lengths)
    # compute_accuracy of the authors' README: of each domain, safety being one, then the plain mean of what it says.
    expected = []
    for domain in ("chat", "math", "code", "safety"):
        own = table[[name.startswith(domain) for name in domains]]
        matrix = (own[:, :3, None] > own[:, None, 3:]).mean(0)
        hard, normal, easy = np.triu(matrix, 1).sum() / 3, np.diag(matrix).mean(), np.tril(matrix, -1).sum() / 3
        expected.append((hard + normal + easy) / 3)
    assert np.ptp(expected) > 0.05
    assert score_of(TASK, graded) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.real
def test_real_rows(shared: Path) -> None:
    read = read_questions(TASK, "rm_bench", str(shared / "data"), train=False, where="evaluation.path")
    sizes = {name: sum(question.group == name for question in read.questions) for name in SIZES}
    assert sizes == {**SIZES, "math": 0}, "the shared folder has all domains but math"
    assert read.counts == {"rows": 798}
    # Detailed answers are longer than concise ones, mostly by far.
    lengths = np.array([[len(candidate) for candidate in question.candidates] for question in read.questions])
    assert (lengths[:, [1, 2, 4, 5]] > lengths[:, [0, 0, 3, 3]]).mean() > 0.95
