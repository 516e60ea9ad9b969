"""Where the rows of benchmarks are found, in folders and on the hub, and the questions that they ask."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import pytest

from alignkit.data.question_rows import Questions, has_rows, read_questions
from alignkit.data.tables import Table
from alignkit.errors import UserError
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation.tasks.task import Task

Row = Mapping[str, object]
WHERE = "evaluation.path"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def task(name: str) -> Task:
    return find_task(name, "evaluation.tasks", listed=None)


def yes_or_no(mark: str, count: int = 2) -> list[Row]:
    """Rows of BoolQ whose passages tell where they stood."""
    return [{"passage": f"{mark} {number}", "question": "is it", "answer": True} for number in range(count)]


def write(path: str, rows: Sequence[Row] | None = None) -> None:
    """A file of rows, which tell its name unless some are given."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (yes_or_no(file.name) if rows is None else rows))
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text, encoding="utf-8")


def read(path: str | None, *, name: str = "boolq", train: bool = False, limit: int | None = None) -> Questions:
    where = "dataset.path" if train else WHERE
    return read_questions(task(name), name, path, train=train, where=where, limit=limit)


def files(path: str, *, name: str = "boolq", train: bool = False) -> list[str]:
    """The files whose rows were read, in their order."""
    return list(dict.fromkeys(str(question.prompt).split(" ")[0] for question in read(path, name=name, train=train).questions))


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


# Which file of a folder


@pytest.mark.parametrize(
    ("names", "reported", "trained"),
    [
        (["train.jsonl", "validation.jsonl"], ["validation.jsonl"], ["train.jsonl"]),
        (["train.jsonl", "validation.jsonl", "validation_small.jsonl"], ["validation.jsonl"], ["train.jsonl"]),
        (
            ["train_20k.jsonl", "validation_b.jsonl", "validation_a.jsonl"],
            ["validation_a.jsonl", "validation_b.jsonl"],
            ["train_20k.jsonl"],
        ),
        (["train.jsonl", "train_small.jsonl", "dev.jsonl.gz"], ["dev.jsonl.gz"], ["train.jsonl"]),
        (["test.jsonl", "dev.jsonl"], ["dev.jsonl"], []),
        (["test.jsonl", "test_foundry.jsonl"], ["test.jsonl"], []),
        (["val.jsonl", "test.jsonl", "train.jsonl"], ["val.jsonl"], ["train.jsonl"]),
        (["boolq_val.jsonl", "boolq_test.jsonl", "boolq_train.jsonl"], ["boolq_val.jsonl"], ["boolq_train.jsonl"]),
        (["BoolQ-Train.jsonl", "BoolQ-Dev.jsonl", "BoolQ-Test.jsonl"], ["BoolQ-Dev.jsonl"], ["BoolQ-Train.jsonl"]),
        (["rows.jsonl"], ["rows.jsonl"], []),
        (["rows.jsonl", "BoolQ-Train.jsonl"], ["rows.jsonl"], ["BoolQ-Train.jsonl"]),
        (["invalid.jsonl", "LICENSE.txt"], ["invalid.jsonl"], []),
    ],
    ids=lambda names: " ".join(names),
)
def test_the_name_of_a_file_says_what_its_rows_are_for(names: list[str], reported: list[str], trained: list[str]) -> None:
    for name in names:
        write(f"all/boolq/{name}")
    assert files("all") == files("all/boolq") == reported
    assert has_rows(task("boolq"), "all", train=True) == bool(trained)
    if trained:
        assert files("all", train=True) == files("all/boolq", train=True) == trained
    else:
        assert "no rows of boolq to train on" in complaint(lambda: read("all", train=True))


def test_a_benchmark_that_reports_its_test_rows_prefers_them() -> None:
    science = {"question": "1+1?", "choices": {"text": ["3", "2"], "label": ["A", "B"]}, "answerKey": "B"}
    for split in ("test", "validation"):
        write(f"arc_easy/ARC-Easy-{split}.jsonl", [{**science, "question": split}])
    assert [question.prompt for question in read("arc_easy", name="arc_easy").questions] == ["Question: test\nAnswer:"]


def test_of_several_files_the_name_is_the_group_where_rows_do_not_say() -> None:
    write("boolq/validation_near.jsonl")
    write("boolq/validation_far.jsonl")
    assert [question.group for question in read("boolq").questions] == ["validation_far"] * 2 + ["validation_near"] * 2
    article = {"article": "Ann won.", "question": "Who won?", "options": ["Ann", "Bob"], "answer": "A"}
    write("race/test_one.jsonl", [{**article, "example_id": "middle1.txt"}, article])
    write("race/test_two.jsonl", [article])
    assert [question.group for question in read("race", name="race").questions] == ["middle", "test_one", "test_two"]


def test_one_file_names_no_group() -> None:
    write("boolq/validation_near.jsonl")
    assert {question.group for question in read("boolq").questions} == {""}


def test_a_file_may_be_named_after_its_task_among_others() -> None:
    write("all/boolq.jsonl.gz", yes_or_no("here"))
    write("all/piqa.jsonl", [])
    write("all/other/validation.jsonl")
    assert files("all") == ["here"]
    assert not has_rows(task("boolq"), "all", train=True), "nobody says that these may be trained on"


def test_a_folder_of_the_task_comes_before_a_file_of_its_name() -> None:
    write("all/boolq.jsonl")
    write("all/boolq/validation.jsonl")
    assert files("all") == ["validation.jsonl"]


def test_a_folder_may_have_any_of_the_names_of_its_task() -> None:
    write("all/glue_cola/validation.jsonl", [{"sentence": "It is.", "label": 1}])
    write("more/cola/validation.jsonl", [{"sentence": "It be.", "label": 0}])
    assert [read(path, name="cola").questions[0].correct for path in ("all", "more")] == [(1,), (0,)]


@pytest.mark.parametrize("train", [False, True])
def test_a_file_is_read_whatever_it_is_called(train: bool) -> None:
    write("train_or_not.jsonl")
    assert files("train_or_not.jsonl", train=train) == ["train_or_not.jsonl"]


def test_the_own_folder_of_a_task_may_be_where_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("boolq/validation.jsonl")
    monkeypatch.chdir(tmp_path / "boolq")
    assert files(".") == ["validation.jsonl"]


def test_a_folder_that_is_nobodys_has_no_rows() -> None:
    write("mine/validation.jsonl")
    assert not has_rows(task("boolq"), "mine", train=False)


# Rows


def test_questions_come_in_the_order_of_the_rows_and_unicode_is_kept() -> None:
    write("boolq.jsonl", [{"passage": "Der Fluß 東京 🙂", "question": "ist er’s", "answer": False}, *yes_or_no("b")])
    found = read("boolq.jsonl")
    assert found.questions[0].prompt == "Der Fluß 東京 🙂\nQuestion: ist er’s?\nAnswer:"
    assert [question.correct for question in found.questions] == [(0,), (1,), (1,)]
    assert found.counts == {"rows": 3}


def test_a_limit_counts_questions_over_all_files() -> None:
    write("boolq/validation_a.jsonl", [{**row, "answer": None} for row in yes_or_no("a", 1)] + yes_or_no("a", 2))
    write("boolq/validation_b.jsonl", yes_or_no("b", 5))
    found = read("boolq", limit=3)
    assert [str(question.prompt).split("\n")[0] for question in found.questions] == ["a 0", "a 1", "b 0"]
    assert found.counts == {"rows": 4, "no_answer": 1}
    assert len(read("boolq", limit=1).questions) == 1
    assert len(read("boolq", limit=100).questions) == 7


def test_a_row_that_is_in_no_form_is_named_by_file_and_line() -> None:
    write("boolq/validation.jsonl", [*yes_or_no("a"), {"passage": "c", "question": None, "answer": True}])
    assert complaint(lambda: read("boolq")).startswith("evaluation.path = boolq/validation.jsonl, line 3: 'question' is null")


def test_missing_columns_are_named_with_those_there_are() -> None:
    write("boolq.jsonl", [{"passage": "a", "questoin": "b", "answer": True}])
    assert complaint(lambda: read("boolq.jsonl")) == (
        "evaluation.path = boolq.jsonl: lacks the column question that boolq has; it has passage, questoin, answer. "
        "Type evaluation.path=FILE in the benchmark's original format."
    )
    assert "Type dataset.path=FILE in the benchmark's" in complaint(lambda: read("boolq.jsonl", train=True))


def test_rows_without_a_label_ask_nothing_and_are_counted() -> None:
    write("boolq.jsonl", [{**row, "answer": None} for row in yes_or_no("a", 3)])
    assert complaint(lambda: read("boolq.jsonl")) == ("evaluation.path = 'boolq.jsonl': boolq has no question there (rows 3, no_answer 3).")


def test_a_path_that_is_not_there_and_one_without_the_task_are_told_apart(tmp_path: Path) -> None:
    assert complaint(lambda: read("nowhere")) == (
        f"evaluation.path = 'nowhere': there is no such file or folder (looked at {tmp_path / 'nowhere'})."
    )
    write("all/bolq/validation.jsonl")
    message = complaint(lambda: read("all"))
    assert message.startswith(
        "evaluation.path = 'all': no rows of boolq to evaluate; looked for a folder or file called boolq with files "
        "validation*, dev*, test* (.jsonl, "
    )
    assert message.endswith(", and found bolq. Did you mean 'bolq'?")
    Path("empty").mkdir()
    assert "with files train* (" in complaint(lambda: read("empty", train=True))
    assert complaint(lambda: read("empty")).endswith("and found nothing.")


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    """What was asked of a stand-in, whose rows are an article by the subset's name."""
    asked: list[tuple[str, str | None, str]] = []

    def read_hub(hub: str, subset: str | None, split: str) -> Table:
        asked.append((hub, subset, split))
        if subset == "ARC-Easy":
            raise UserError(
                f"dataset.hub = {hub}: the hub cannot be reached (offline) and the cache does not have the data. Type dataset.path=FILE "
                "for a file in this format, or dataset=reviews, which needs no network."
            )
        row = {"article": f"{subset}.", "question": "Who?", "options": ["Ann", "Bob"], "answer": "B"}
        data = datasets.Dataset.from_list([row, row])
        return Table(place=f"dataset.hub = {hub}", columns=tuple(data.column_names), data=data)

    monkeypatch.setattr("alignkit.data.question_rows.read_hub", read_hub)
    return asked


def test_every_place_of_a_task_on_the_hub_is_read_with_its_group(hub: list[tuple[str, str | None, str]]) -> None:
    found = read(None, name="race")
    assert hub == [("ehovy/race", "middle", "test"), ("ehovy/race", "high", "test")]
    assert [question.group for question in found.questions] == ["middle", "middle", "high", "high"]
    hub.clear()
    read(None, name="race", train=True)
    assert hub == [("ehovy/race", "middle", "train"), ("ehovy/race", "high", "train")]


def test_what_the_hub_does_not_have_is_asked_for(hub: list[tuple[str, str | None, str]]) -> None:
    assert has_rows(task("race"), None, train=True)
    assert has_rows(task("race"), None, train=False)
    for name, train, words in (("preference_pairs", False, "to evaluate"), ("truthfulqa", True, "to train on")):
        assert not has_rows(task(name), None, train=train)
        where = "dataset.path" if train else WHERE
        assert complaint(lambda name=name, train=train: read(None, name=name, train=train)) == (  # type: ignore[misc]
            f"{where} is missing: {name} has no rows {words} on the hub. Type {where}=FILE."
        )
    assert hub == []


def test_a_hub_that_does_not_answer_is_told_in_the_words_of_who_asked(hub: list[tuple[str, str | None, str]]) -> None:
    assert complaint(lambda: read(None, name="arc_easy")) == (
        "evaluation.path is missing, and arc_easy on the hub: allenai/ai2_arc: the hub cannot be reached (offline) and the cache does not "
        "have the data. Type evaluation.path=FILE in the benchmark's original format."
    )
