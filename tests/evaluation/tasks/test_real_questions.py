"""Every row of the real files of benchmarks: what it asks, and how many of each kind there are by their own account."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from alignkit.data.question_rows import read_questions
from alignkit.data.questions import Question
from alignkit.evaluation.tasks.catalogue import find_task

pytestmark = pytest.mark.real

LABELLED = [
    ("cola", "glue_cola/train", {1: 6023, 0: 2528}),
    ("cola", "glue_cola/validation_in_domain", {1: 365, 0: 162}),
    ("cola", "glue_cola/validation_out_of_domain", {1: 354, 0: 162}),
    ("sst2", "glue_sst2/train_20k", {1: 11076, 0: 8924}),
    ("sst2", "glue_sst2/validation", {1: 444, 0: 428}),
    ("mrpc", "glue_mrpc/train", {1: 2753, 0: 1323}),
    ("mrpc", "glue_mrpc/test", {1: 1147, 0: 578}),
    ("qnli", "glue_qnli/validation", {0: 2702, 1: 2761}),
    ("mnli", "glue_mnli_pvi/validation_matched", {1: 3123, 2: 3213, 0: 3479}),
    ("wnli", "glue_wnli/train", {1: 312, 0: 323}),
    ("wnli", "glue_wnli/validation", {0: 40, 1: 31}),
    ("hellaswag", "hellaswag/validation_1000", {3: 239, 2: 266, 0: 267, 1: 228}),
    ("openbookqa", "openbookqa/test", {1: 126, 0: 138, 2: 132, 3: 104}),
    ("openbookqa", "openbookqa/test_foundry", {1: 126, 0: 138, 2: 132, 3: 104}),
    ("winogrande", "winogrande/validation_foundry", {1: 639, 0: 628}),
    # of the four with an option that the file repeats, two have the right one after it: 311 + 2 and 294 - 2
    ("arc_challenge", "arc_challenge/test_foundry", {2: 313, 1: 306, 3: 292, 0: 261}),
    ("arc_challenge", "arc_challenge/train_csv4", {0: 233, 1: 293, 3: 283, 2: 287}),
    ("arc_challenge", "arc_challenge/validation_csv4", {3: 82, 2: 78, 0: 62, 1: 72}),
    ("boolq", "boolq/validation_foundry", {0: 1237, 1: 2033}),
    ("copa", "copa/validation_foundry", {1: 45, 0: 55}),
]
"""Task, file, and the counts that its source states."""


def rows(shared: Path, file: str) -> list[dict[str, Any]]:
    path = shared / "data" / f"{file}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def questions(shared: Path, task: str, file: str) -> list[Question]:
    """All of them: a row that is dropped or refused raises."""
    kind = find_task(task, "evaluation.tasks", listed=None)
    return [kind.to_example(row) for row in rows(shared, file)]


@pytest.mark.parametrize(("task", "file", "counts"), LABELLED, ids=lambda value: value if isinstance(value, str) else "")
def test_every_row_asks_a_question_and_labels_are_as_many_as_stated(shared: Path, task: str, file: str, counts: Mapping[int, int]) -> None:
    found = questions(shared, task, file)
    assert Counter(place for question in found for place in question.correct) == counts
    for question in found:
        assert question.candidates[question.correct[0]].strip()
        assert all(candidate.startswith(" ") for candidate in question.candidates)
        assert question.prompt == str(question.prompt).rstrip()
        shown = list(zip(question.given or question.candidates, question.candidates, strict=True))
        assert shown.count(shown[question.correct[0]]) == 1


def test_two_files_of_the_same_openbookqa_questions_are_read_alike(shared: Path) -> None:
    assert questions(shared, "openbookqa", "openbookqa/test") == questions(shared, "openbookqa", "openbookqa/test_foundry")


@pytest.mark.parametrize(
    ("file", "counts"), [("test_foundry", {4: 1168, 3: 4}), ("train_csv4", {4: 1095, 3: 1}), ("validation_csv4", {4: 291, 3: 3})]
)
def test_arc_has_three_options_where_files_fill_up(shared: Path, file: str, counts: Mapping[int, int]) -> None:
    found = questions(shared, "arc_challenge", f"arc_challenge/{file}")
    assert Counter(len(question.candidates) for question in found) == counts


@pytest.mark.parametrize(("split", "total"), [("train", 5749), ("validation", 1500)])
def test_stsb_digits_are_next_to_the_ratings(shared: Path, split: str, total: int) -> None:
    found = questions(shared, "stsb", f"glue_stsb/{split}")
    assert len(found) == total
    assert all(question.value is not None and abs(question.value - question.correct[0]) <= 0.5 for question in found)
    assert {question.correct[0] for question in found} == set(range(6))


def test_race_tells_the_schools_apart_and_the_answers_are_as_many_as_stated(shared: Path) -> None:
    found = questions(shared, "race", "race/sample_1000")
    stated = {"middle": {1: 155, 3: 112, 0: 93, 2: 140}, "high": {2: 137, 0: 98, 3: 122, 1: 143}}
    schools = {question.group for question in found}
    assert schools <= stated.keys()  # copies of the file may be cut after the first school
    for school in schools:
        assert Counter(question.correct[0] for question in found if question.group == school) == stated[school]
    for question, row in zip(found, rows(shared, "race/sample_1000"), strict=True):
        assert question.candidates[question.correct[0]] == f" {row['answer']}. {row['options']['ABCD'.index(row['answer'])].strip()}"
        assert str(question.prompt).startswith("Article: " + row["article"].strip()[:40])


def test_truthfulqa_has_every_answer_of_its_file(shared: Path) -> None:
    one, several = (questions(shared, task, "truthfulqa/generation") for task in ("truthfulqa", "truthfulqa_mc2"))
    assert len(one) == len(several) == 817
    for row, best, full in zip(rows(shared, "truthfulqa/generation"), one, several, strict=True):
        right, wrong = (
            [f" {answer.strip()}" for answer in row[f"{kind} Answers"].rstrip("; ").split("; ")] for kind in ("Correct", "Incorrect")
        )
        assert list(best.candidates) == [f" {row['Best Answer'].strip()}", *wrong]
        assert list(full.candidates) == [*right, *wrong]
        assert best.candidates[0] not in best.candidates[1:]
        assert len(full.correct) == len(right)


@pytest.mark.parametrize(
    ("task", "total", "groups"),
    [
        ("cola", 1043, {"validation_in_domain": 527, "validation_out_of_domain": 516}),
        ("mrpc", 1725, {"": 1725}),
        ("openbookqa", 500, {"": 500}),
        ("arc_challenge", 1172, {"": 1172}),
        ("mnli", 9815, {"": 9815}),
        ("winogrande", 1267, {"": 1267}),
    ],
)
def test_a_folder_of_benchmarks_holds_the_rows_to_evaluate(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, total: int, groups: Mapping[str, int]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    kind = find_task(task, "evaluation.tasks", listed=None)
    found = read_questions(kind, task, str(shared / "data"), train=False, where="evaluation.path")
    assert found.counts == {"rows": total}
    assert Counter(question.group for question in found.questions) == groups
