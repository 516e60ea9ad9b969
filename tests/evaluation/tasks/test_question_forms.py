"""One row of each form of each benchmark, with the question that it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from alignkit.data.dropping import REASONS
from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError
from alignkit.evaluation.tasks.catalogue import find_task

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    task: str
    forms: Sequence[Row]
    """Rows that ask the same, the hub's first."""
    question: Question
    label: str = "label"
    """The column of the first form that says which candidate is right."""
    other: Any = 0
    """A value of it that says another one."""
    wrong: Any = "x"
    """A value that none of its rows has."""


def asked(prompt: str, candidates: Sequence[str], correct: int, **rest: Any) -> Question:
    return Question(prompt=prompt, candidates=tuple(candidates), correct=(correct,), **rest)


def hub_choices(*options: str, labels: str = "ABCDE") -> Row:
    return {"text": list(options), "label": list(labels[: len(options)])}


FOG = ("a marsh", "a tundra", "the plains", "a desert")
HOT = ("ice", "fire", "snow")
HOT_PROMPT = "Question: What is hot?\nAnswer:"
CASES = [
    Case(
        "cola",
        [{"sentence": "Ann ran.", "label": 1, "idx": 0}, {"source": "gj04", "label": "1", "original_label": "", "sentence": "Ann ran."}],
        asked("Ann ran.\nQuestion: Does this sentence make sense?\nAnswer:", (" no", " yes"), 1),
    ),
    Case(
        "sst2",
        [{"sentence": "a delight ", "label": 1}, {"sentence": "a delight ", "label": "1"}],
        asked("a delight \nQuestion: Is this sentence positive or negative?\nAnswer:", (" negative", " positive"), 1),
    ),
    Case(
        "mrpc",
        [
            {"sentence1": "He did.", "sentence2": "He had.", "label": 1},
            {"Quality": "1", "#1 ID": "1", "#2 ID": "2", "#1 String": "He did.", "#2 String": "He had."},
        ],
        asked("Sentence 1: He did.\nSentence 2: He had.\nQuestion: Do both sentences mean the same thing?\nAnswer:", (" no", " yes"), 1),
    ),
    Case(
        "qqp",
        [
            {"question1": "Old?", "question2": "Age?", "label": 1},
            {"question1": "Old?", "question2": "Age?", "is_duplicate": "1"},
            {"question1": "Old?", "question2": "Age?", "is_duplicate": 1.0},
        ],
        asked("Question 1: Old?\nQuestion 2: Age?\nQuestion: Do both questions ask the same thing?\nAnswer:", (" no", " yes"), 1),
    ),
    Case(
        "qnli",
        [
            {"question": "Who won?", "sentence": "Bob lost.", "label": 1},
            {"index": "0", "question": "Who won?", "sentence": "Bob lost.", "label": "not_entailment"},
        ],
        asked("Who won?\nBob lost.\nQuestion: Does this response answer the question?\nAnswer:", (" yes", " no"), 1),
        wrong="maybe",
    ),
    Case(
        "rte",
        [{"sentence1": "Ann won.", "sentence2": "Bob won.", "label": 1}, {"sentence1": "Ann won.", "sentence2": "Bob won.", "label": "1"}],
        asked("Ann won.\nQuestion: Bob won. True or False?\nAnswer:", (" True", " False"), 1),
    ),
    Case(
        "wnli",
        [{"sentence1": "The drain has hair. Clean it.", "sentence2": "Clean the drain.", "label": 1}],
        asked("The drain has hair. Clean it.\nQuestion: Clean the drain. True or False?\nAnswer:", (" False", " True"), 1),
    ),
    Case(
        "mnli",
        [
            {"premise": "Ann won.", "hypothesis": "Bob lost ", "label": 1},
            {"sentence1": "Ann won.", "sentence2": "Bob lost ", "gold_label": "neutral", "genre": "fiction"},
            {"": "0", "sentence1": "PREMISE: Ann won. HYPOTHESIS: Bob lost ", "label": "1"},
        ],
        asked("Ann won.\nQuestion: Bob lost. True, False or Neither?\nAnswer:", (" True", " Neither", " False"), 1),
        wrong=3,
    ),
    Case(
        "stsb",
        [{"sentence1": "A", "sentence2": "B", "label": 3.5}, {"sentence1": "A", "sentence2": "B", "score": "3.500"}],
        asked(
            "Sentence 1: A\nSentence 2: B\nQuestion: From 0 (nothing in common) to 5 (the same meaning), how similar are the two sentences?"
            "\nAnswer:",
            (" 0", " 1", " 2", " 3", " 4", " 5"),
            4,
            value=3.5,
        ),
        other=1.2,
        wrong=5.1,
    ),
    Case(
        "race",
        [{"article": "Ann won.\n", "question": "Who  _  .", "options": ["Ann", "Bob"], "answer": "B", "example_id": "high12.txt"}],
        asked("Article: Ann won.\n\nQuestion: Who  _  .\nA. Ann\nB. Bob\nAnswer:", (" A. Ann", " B. Bob"), 1, group="high"),
        label="answer",
        other="A",
        wrong="C",
    ),
    Case(
        "hellaswag",
        [
            {"activity_label": "Vault", "ctx_a": "A man runs.", "ctx_b": "the MAN", "endings": ["jumps.", "[step] sits."], "label": "1"},
            {"activity_label": "Vault", "ctx_a": "A man runs.", "ctx_b": "the man", "endings": ["jumps.", "[step] sits."], "label": 1},
            {"query": "Vault: A man runs. The man", "choices": ["jumps.", " sits."], "gold": 1},
        ],
        asked("Vault: A man runs. The man", (" jumps.", "  sits."), 1),
        other="0",
        wrong="2",
    ),
    Case(
        "openbookqa",
        [
            {"question_stem": "Fog is likely around", "choices": hub_choices(*FOG), "answerKey": "B"},
            {
                "id": "1129",
                "question": {
                    "stem": "Fog is likely around",
                    "choices": [{"text": option, "label": label} for option, label in zip(FOG, "ABCD", strict=True)],
                },
                "answerKey": "B",
            },
            {"query": "Fog is likely around", "choices": list(FOG), "gold": 1},
            {"question": "Fog is likely around", **dict(zip("ABCD", FOG, strict=True)), "answer": "B"},
        ],
        asked("Fog is likely around", [f" {option}" for option in FOG], 1),
        label="answerKey",
        other="A",
        wrong="E",
    ),
    Case(
        "winogrande",
        [
            {"sentence": "Ann beat the old lady as the _ was slow. ", "option1": "old lady", "option2": "old Ann", "answer": "2"},
            {
                "context_options": ["Ann beat the old lady as the old lady", "Ann beat the old lady as the old Ann"],
                "continuation": "was slow.",
                "gold": 1,
            },
        ],
        asked("Ann beat the old lady as the old", (" was slow.", " was slow."), 1, given=(" lady", " Ann")),
        label="answer",
        other="1",
        wrong="0",
    ),
    *(
        Case(
            task,
            [
                {"question": "What is hot?", "choices": hub_choices(*HOT, labels="123"), "answerKey": "2"},
                {"question": "What is hot?", "choices": hub_choices(*HOT), "answerKey": "B"},
                {
                    "question": {"stem": "What is hot?", "choices": [{"text": t, "label": n} for t, n in zip(HOT, "ABC", strict=True)]},
                    "answerKey": "B",
                },
                {"query": "Question: What is hot?", "choices": ["ice", "fire", "ice", "snow"], "gold": 1},
                {"query": "Question: What is hot?\n", "choices": list(HOT), "gold": 1},
                {"question": "What is hot?", "A": "ice", "B": "fire", "C": "snow", "D": "", "answer": "B"},
                {"question": "What is hot?", "A": "ice", "B": "fire", "C": "snow", "D": None, "answer": "B"},
                {"question": "What is hot?", "A": "ice", "B": "fire", "C": "snow", "D": "ice", "answer": "B"},
            ],
            asked(HOT_PROMPT, (" ice", " fire", " snow"), 1),
            label="answerKey",
            other="1",
            wrong="4",
        )
        for task in ("arc_challenge", "arc_easy")
    ),
    Case(
        "boolq",
        [
            {"passage": "Ice -- Ice is water.", "question": "is ice water", "label": 1},
            {"passage": "Ice -- Ice is water.", "question": "is ice water", "label": "true"},
            {"passage": "Ice -- Ice is water.", "question": "is ice water", "answer": True},
            {"title": "Ice", "passage": "Ice is water.", "question": "is ice water", "answer": True},
            {"query": "Passage: Ice -- Ice is water.\nQuestion: is ice water?", "choices": ["no", "yes"], "gold": 1},
        ],
        asked("Ice -- Ice is water.\nQuestion: is ice water?\nAnswer:", (" no", " yes"), 1),
    ),
    Case(
        "piqa",
        [
            {"goal": "dresser", "sol1": "use a  pin", "sol2": "use a cup", "label": 1},
            {"query": "Question: dresser\n", "choices": ["use a  pin", "use a cup"], "gold": 1},
        ],
        asked("Question: dresser\nAnswer:", (" use a  pin", " use a cup"), 1),
    ),
    Case(
        "mmlu",
        [
            {"question": "1+1? ", "choices": ["3", "2", "4", "2"], "answer": 1, "subject": "sums"},
            {"question": "1+1?", "A": "3", "B": "2", "C": "4", "D": "2", "answer": "B", "subject": "sums"},
        ],
        asked(
            "Question: 1+1?\nA. 3\nB. 2\nC. 4\nD. 2\nAnswer:",
            (" A. 3", " B. 2", " C. 4", " D. 2"),
            1,
            group="sums",
        ),
        label="answer",
        wrong=4,
    ),
    Case(
        "copa",
        [
            {"premise": "The man fell. ", "choice1": "He ran.", "choice2": "I saw it.", "question": "cause", "label": 1},
            {"query": "The man fell because", "choices": ["he ran.", "i saw it."], "gold": 1},
        ],
        asked("The man fell because", ("  he ran.", "  i saw it."), 1),
    ),
]
BY_TASK = {case.task: case for case in CASES}
FORMS = [pytest.param(case, row, id=f"{case.task}-{place}") for case in CASES for place, row in enumerate(case.forms)]


def question(task: str, row: Row, *, listed: bool | None = None) -> Question:
    return find_task(task, "evaluation.tasks", listed=listed).to_example(row)


@pytest.mark.parametrize(("case", "row"), FORMS)
def test_every_form_of_a_row_asks_the_same(case: Case, row: Row) -> None:
    assert question(case.task, row) == case.question
    assert not find_task(case.task, "evaluation.tasks", listed=None).missing(row.keys())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_prompt_and_candidates_do_not_tell_which_one_is_right(case: Case) -> None:
    other = question(case.task, {**case.forms[0], case.label: case.other})
    assert (other.prompt, other.given, other.candidates) == (case.question.prompt, case.question.given, case.question.candidates)
    assert other.correct != case.question.correct


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
@pytest.mark.parametrize("label", [-1, "", None])
def test_a_row_without_a_label_asks_nothing(case: Case, label: object) -> None:
    with pytest.raises(DroppedRow) as dropped:
        question(case.task, {**case.forms[0], case.label: label})
    assert dropped.value.reason == "no_answer"
    assert dropped.value.reason in REASONS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_a_label_that_means_nothing_is_told_with_its_column(case: Case) -> None:
    with pytest.raises(RowError, match=rf"^'{case.label}' is {case.wrong!r}"):
        question(case.task, {**case.forms[0], case.label: case.wrong})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_a_column_that_is_not_there_is_told(case: Case) -> None:
    task = find_task(case.task, "evaluation.tasks", listed=None)
    for column in task.COLUMNS[0]:
        rest = {name: value for name, value in case.forms[0].items() if name != column}
        assert set(task.missing(rest.keys())) <= {column}  # none where the rest may be another form
        with pytest.raises(RowError, match=r"^'\w+' is"):
            task.to_example(rest)


def test_rows_that_annotators_did_not_agree_on_ask_nothing() -> None:
    with pytest.raises(DroppedRow, match="no_answer"):
        question("mnli", {"sentence1": "Ann won.", "sentence2": "Bob lost.", "gold_label": "-"})


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        ("mnli", {"sentence1": "Ann won.", "label": "1"}, "'sentence1' must be of the form 'PREMISE: ... HYPOTHESIS: ...'"),
        ("boolq", {"query": "Passage: no question", "choices": ["no", "yes"], "gold": 1}, "'query' must be of the form 'Passage: ..."),
        (
            "winogrande",
            {"sentence": "Ann won.", "option1": "a", "option2": "b", "answer": "1"},
            "'sentence' is 'Ann won.'; must hold a blank",
        ),
        ("copa", {**BY_TASK["copa"].forms[0], "question": "why"}, "'question' is 'why'; must be cause or effect."),
        ("openbookqa", {"query": "Fog", "choices": ["a"], "gold": 0}, "'choices' holds one element; must hold at least two options."),
        ("openbookqa", {"query": "Fog", "choices": ["a", 5], "gold": 0}, "'choices, element 2' is 5 (int); must be text."),
        (
            "arc_easy",
            {"question": "Hot?", "choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}, "answerKey": "A"},
            "'choices' holds 2 texts and 3 labels; must hold a label for each text.",
        ),
        ("mmlu", {"question": "?", "A": "a", "B": "b", "C": "c", "D": "", "answer": "D"}, "'answer' is 'D'; must be one of A, B, C"),
        ("rte", {"sentence1": "a", "sentence2": "b", "label": True}, "'label' is True; must be one of entailment, not_entailment"),
    ],
)
def test_what_is_in_none_of_the_forms_is_told(task: str, row: Row, words: str) -> None:
    with pytest.raises(RowError) as wrong:
        question(task, row)
    assert str(wrong.value).startswith(words)


@pytest.mark.parametrize(("task", "row"), [("piqa", {"goal": "g", "sol1": " ", "sol2": "b", "label": 1})])
@pytest.mark.parametrize("listed", [None, True])
def test_a_question_with_an_empty_candidate_is_left_out(task: str, row: Row, listed: bool | None) -> None:
    with pytest.raises(DroppedRow, match="empty"):
        question(task, row, listed=listed)


# Listed by letters or not


@pytest.mark.parametrize(
    ("task", "asked_for"),
    [
        ("hellaswag", "Vault: A man runs. The man\nQuestion: Which ending makes the most sense?\nA. jumps.\nB. sits.\nAnswer:"),
        ("openbookqa", "Question: Fog is likely around\nA. a marsh\nB. a tundra\nC. the plains\nD. a desert\nAnswer:"),
        ("arc_challenge", "Question: What is hot?\nA. ice\nB. fire\nC. snow\nAnswer:"),
        ("arc_easy", "Question: What is hot?\nA. ice\nB. fire\nC. snow\nAnswer:"),
    ],
)
def test_a_task_lists_its_candidates_when_it_is_asked_to(task: str, asked_for: str) -> None:
    for row in BY_TASK[task].forms:
        listed = question(task, row, listed=True)
        assert listed.prompt == asked_for
        assert [candidate.strip() for candidate in listed.candidates] == asked_for.splitlines()[-1 - len(listed.candidates) : -1]
        assert all(candidate.startswith(" ") for candidate in listed.candidates)
        assert listed.correct == BY_TASK[task].question.correct


def test_a_task_that_lists_can_ask_for_the_text_alone() -> None:
    race = question("race", BY_TASK["race"].forms[0], listed=False)
    assert race == asked("Article: Ann won.\n\nQuestion: Who  _  .\nAnswer:", (" Ann", " Bob"), 1, group="high")
    mmlu = question("mmlu", BY_TASK["mmlu"].forms[0], listed=False)
    assert mmlu == asked("Question: 1+1?\nAnswer:", (" 3", " 2", " 4", " 2"), 1, group="sums")


@pytest.mark.parametrize("task", sorted(BY_TASK.keys() - {"hellaswag", "openbookqa", "arc_challenge", "arc_easy", "race", "mmlu"}))
def test_a_task_that_cannot_list_pays_no_heed(task: str) -> None:
    assert question(task, BY_TASK[task].forms[0], listed=True) == BY_TASK[task].question
