"""Benchmarks as training data: what is chosen and rejected, how often a task is visited, what is held out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from alignkit.command_line import precheck
from alignkit.configuration import dataset_settings, packaged
from alignkit.data.dropping import REASONS
from alignkit.data.examples import PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.preparation import prepare
from alignkit.data.source import LoadedExamples, LoadingSource, load_examples
from alignkit.errors import UserError
from alignkit.resolution import build_source
from alignkit.settings import DatasetSettings

Characters = Callable[..., PreTrainedTokenizerFast]
OPTIONS = "abcdef"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def write(task: str, rows: Iterable[dict[str, Any]], *, split: str = "train") -> None:
    file = Path("all") / task / f"{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def exam(numbers: Iterable[int], *, options: int = 4, mark: str = "arc") -> list[dict[str, Any]]:
    """Rows of ARC, whose right option is written in capitals."""
    return [
        {
            "question": f"{mark} {number}?",
            "choices": {
                "text": [f"{OPTIONS[place].upper() if place == number % options else OPTIONS[place]}{number}" for place in range(options)],
                "label": list("ABCDEF"[:options]),
            },
            "answerKey": "ABCDEF"[number % options],
        }
        for number in numbers
    ]


def yes_or_no(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"passage": f"p {number}", "question": "is it", "answer": bool(number % 2)} for number in numbers]


def typed(*overrides: str) -> DatasetSettings:
    """As they are typed."""
    (settings,) = precheck(["dataset=tasks", "dataset.path=all", "dataset.validation_examples=2", *overrides])
    return settings.dataset


def settings_of(*tasks: str, **changes: object) -> DatasetSettings:
    """What is typed for these tasks, in a fraction of the time."""
    own = {"path": "all", "validation_examples": 2, "max_length": 200, "tasks": list(tasks), **changes}
    return dataset_settings({**packaged("dataset")["tasks"], **own}, [])


def source_of(settings: DatasetSettings) -> LoadingSource:
    source = build_source(settings, [])
    assert isinstance(source, LoadingSource)
    return source


def load(*tasks: str, **changes: object) -> LoadedExamples:
    settings = settings_of(*tasks, **changes)
    return load_examples(settings, source_of(settings))


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def by_task(examples: list[PreferenceExample]) -> Counter[str]:
    return Counter(example.source for example in examples)


# Forms


def test_every_form_has_the_right_answer_and_wrong_ones_as_it_needs_them() -> None:
    write("arc_easy", exam(range(40)))
    train = load("arc_easy").train
    for example in train:
        number = str(example.prompt).split()[2].rstrip("?\nAnswer:")
        wanted = {f" {letter}{number}" for letter in "abcd"}
        single, pair = Form.single().of(example), Form.pairs().of(example)
        ranking, labels = Form.rankings().of(example), Form.labels().of(example)
        (right,) = single.completions
        assert right == f" {'ABCD'[int(number) % 4]}{number}"
        assert pair.completions[0] == right
        assert pair.completions[1] in wanted
        assert {ranking.completions[0], *ranking.completions[1:]} == {right, *(wanted - {right.lower()})}
        assert ranking.ranks == (0, 1, 1, 1)
        assert labels.completions[0] == right
        assert labels.desirable == (True, False, False, False)
    rejected = Counter(Form.pairs().of(example).completions[1][1] for example in train)
    assert set(rejected) == set("abcd"), "wrong ones of all places are drawn"


@pytest.mark.parametrize("options", [2, 3, 6])
def test_questions_may_have_any_number_of_candidates(options: int) -> None:
    write("arc_easy", exam(range(8), options=options))
    loaded = load("arc_easy")
    assert {len(example.completions) for example in loaded.train} == {options}
    assert all(Form.pairs().of(example).completions[0][1].isupper() for example in loaded.train)


def test_what_is_given_begins_the_answer() -> None:
    rows = [{"sentence": f"Ann saw Bea {n} times, for _ ran.", "option1": "Ann", "option2": "Bea", "answer": "2"} for n in range(6)]
    write("winogrande", rows)
    for example in load("winogrande").train:
        assert str(example.prompt).endswith("times, for")
        assert example.completions == (" Bea ran.", " Ann ran.")


def test_tasks_are_encoded_as_any_data_are(characters: Characters) -> None:
    write("arc_easy", exam(range(10)))
    write("boolq", yes_or_no(range(10)))
    settings = settings_of("arc_easy", "boolq")
    data = prepare(settings, source_of(settings), characters(), form=Form.pairs())
    assert {name: data.counts[name] for name in data.counts if "/" in name} == {
        "train/arc_easy": 8, "train/boolq": 8, "validation/arc_easy": 2, "validation/boolq": 2,
    }  # fmt: skip


# How often


@pytest.mark.parametrize(
    ("mix", "visits"),
    [
        # 8 and 28 to train on. Flat: 18 each. Natural, and elbow below a million: as many as there are.
        ("flat", {"boolq": 18, "arc_easy": 18}),
        ("elbow", {"boolq": 8, "arc_easy": 28}),
        ("natural", {"boolq": 8, "arc_easy": 28}),
    ],
)
def test_an_epoch_visits_tasks_as_the_mix_says(mix: str, visits: dict[str, int]) -> None:
    write("boolq", yes_or_no(range(10)))
    write("arc_easy", exam(range(30)))
    loaded = load("boolq", "arc_easy", mix=mix)
    assert by_task(loaded.train) == visits
    assert by_task(loaded.validation) == {"boolq": 2, "arc_easy": 2}, "held out once, whatever the mix"


def test_elbow_stops_counting_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.data.sources.tasks.ELBOW_SIZE", 8)
    write("boolq", yes_or_no(range(6)))
    write("arc_easy", exam(range(30)))
    loaded = load("boolq", "arc_easy", mix="elbow")
    # 4 and 28 of them, which count 4 and 8: a third of 32 and two thirds.
    assert by_task(loaded.train) == {"boolq": round(32 / 3), "arc_easy": round(32 * 2 / 3)}


def test_a_task_is_repeated_by_whole_rounds_and_a_rest_that_its_content_decides() -> None:
    write("boolq", yes_or_no(range(10)))
    write("arc_easy", exam(range(30)))
    train = load("boolq", "arc_easy").train
    times = Counter(example.prompt for example in train if example.source == "boolq")
    assert Counter(times.values()) == {2: 6, 3: 2}, "18 visits of 8: two rounds and two more"
    assert max(Counter(example.prompt for example in train if example.source == "arc_easy").values()) == 1
    write("boolq", yes_or_no(reversed(range(10))))
    assert Counter(example.prompt for example in load("boolq", "arc_easy").train if example.source == "boolq") == times
    assert load("boolq", "arc_easy").train == load("boolq", "arc_easy").train


def test_a_limit_is_that_of_each_task() -> None:
    write("boolq", yes_or_no(range(10)))
    write("arc_easy", exam(range(30)))
    loaded = load("boolq", "arc_easy", train_examples=5)
    assert by_task(loaded.train) == {"boolq": 5, "arc_easy": 5}
    assert len({example.prompt for example in loaded.train}) == 10


# Held out


def test_no_prompt_that_one_task_holds_out_is_trained_on_in_another() -> None:
    write("arc_easy", exam(range(20)))
    write("arc_challenge", exam(range(10, 40)))
    loaded = load("arc_easy", "arc_challenge", mix="natural", validation_examples=8)
    held = {example.prompt for example in loaded.validation}
    assert not held & {example.prompt for example in loaded.train}
    assert loaded.counts["held_out_elsewhere"] == 12 + 22 - len(loaded.train) > 0
    assert by_task(loaded.validation) == {"arc_easy": 8, "arc_challenge": 8}


def test_rows_to_evaluate_are_not_read() -> None:
    write("boolq", yes_or_no(range(10)))
    write("boolq", yes_or_no(range(100, 110)), split="validation")
    loaded = load("boolq")
    assert loaded.counts["rows"] == 10
    assert all(int(str(example.prompt).split()[1]) < 10 for example in (*loaded.train, *loaded.validation))


# What is left out


def test_tasks_without_rows_are_left_out_and_counted() -> None:
    write("boolq", yes_or_no(range(10)))
    write("piqa", [], split="validation")
    loaded = load("boolq", "piqa", "hellaswag", "boolq")
    assert by_task(loaded.train) == {"boolq": 8}
    assert loaded.counts["tasks_without_rows"] == 2


def test_unlabelled_rows_and_those_of_no_use_are_counted() -> None:
    write("boolq", [*yes_or_no(range(10)), {"passage": "p", "question": "is it", "answer": None}])
    write("arc_easy", [*exam(range(9)), {**exam([9])[0], "choices": {"text": ["x", "x "], "label": ["A", "B"]}, "answerKey": "A"}])
    loaded = load("boolq", "arc_easy")
    assert {name: loaded.counts.get(name) for name in ("rows", "no_answer", "identical")} == {"rows": 21, "no_answer": 1, "identical": 1}
    assert {"no_answer", "identical"} <= REASONS.keys()
    assert complaint(lambda: load("arc_easy", max_dropped=0.0)).startswith(
        "dataset.tasks: arc_easy: 1 of 10 examples cannot be used, more than dataset.max_dropped = 0 allows: identical 1 ("
    )


@pytest.mark.parametrize("mix", ["flat", "natural"])
def test_a_task_of_which_nothing_is_left_is_no_part_of_the_mix(mix: str) -> None:
    same = {"choices": {"text": ["x", "x "], "label": ["A", "B"]}, "answerKey": "A"}
    write("arc_easy", [{"question": f"{number}?", **same} for number in range(4)])
    assert load("arc_easy", mix=mix, max_dropped=1.0).train == []
    write("boolq", yes_or_no(range(10)))
    assert by_task(load("boolq", "arc_easy", mix=mix, max_dropped=1.0).train) == {"boolq": 8}


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset.tasks=[]"], "dataset.tasks = []; must name a benchmark. Try dataset.tasks=[arc_easy]."),
        (["dataset.tasks=[hellaswog]"], "Did you mean 'hellaswag'?"),
        (["dataset.tasks=boolq"], "dataset.tasks = 'boolq'; must be a list"),
        (["dataset.mix=flatt"], "dataset.mix = 'flatt'; must be one of flat, elbow, natural. Did you mean 'flat'?"),
        (["dataset.listed=maybe"], "dataset.listed = 'maybe'; must be true or false or null."),
        (["dataset.path=nowhere"], "dataset.path = 'nowhere'; there is no such file"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_read(overrides: list[str], words: str) -> None:
    Path("all").mkdir()
    assert words in complaint(lambda: typed(*overrides))


def test_what_has_no_effect_is_refused() -> None:
    write("boolq", yes_or_no(range(10)))
    write("held", yes_or_no(range(10)))
    held = "all/held/train.jsonl"
    assert complaint(lambda: load("boolq", hub="a/b")) == (
        "dataset.hub = a/b has no effect: each task knows its place. Leave it out, or type dataset.path=DIR."
    )
    assert complaint(lambda: load("boolq", validation_path=held)).startswith(f"dataset.validation_path = {held} has no effect")


def test_a_folder_without_any_of_the_tasks_says_what_was_looked_for() -> None:
    write("bolq", yes_or_no(range(10)))
    message = complaint(lambda: load("boolq", "piqa"))
    assert message.startswith(
        "dataset.path = 'all': no rows of boolq to train on; looked for a folder or file called boolq with files train*"
    )
    assert message.endswith("Did you mean 'bolq'?")


def test_texts_beside_dialogues_need_one_way_to_be_written() -> None:
    write("boolq", yes_or_no(range(10)))
    write("preference_pairs", [{"prompt": [{"role": "user", "content": f"{n}"}], "chosen": "a", "rejected": "b"} for n in range(10)])
    assert complaint(lambda: load("boolq", "preference_pairs")) == (
        "dataset.tasks: boolq holds plain text, and preference_pairs chat messages; with dataset.format=auto all parts must be of one "
        "kind. Type dataset.format=chat (a text is a user's turn) or dataset.format=text (no chat template)."
    )
    assert len(load("boolq", "preference_pairs", format="text").train) == 16


def test_streaming_is_refused_with_what_to_type(characters: Characters) -> None:
    write("boolq", yes_or_no(range(10)))
    settings = settings_of("boolq", streaming=True)
    with pytest.raises(UserError, match=r"dataset\.streaming = True has no effect: dataset=tasks .* in memory\. Leave it out"):
        prepare(settings, source_of(settings), characters(), form=Form.pairs())


# As a part of a mixture


def mixed(parts: str) -> LoadedExamples:
    settings = typed("dataset=mixture", "dataset.path=null", f"dataset.parts={parts}")
    return load_examples(settings, source_of(settings))


def test_tasks_may_be_a_part_of_a_mixture() -> None:
    write("boolq", yes_or_no(range(10)))
    Path("pairs.jsonl").write_text("".join(json.dumps({"prompt": f"q{n}", "chosen": " a", "rejected": " b"}) + "\n" for n in range(12)))
    parts = "{know: {source: tasks, tasks: [boolq], path: all, weight: 2}, like: {source: local, path: pairs.jsonl}}"
    loaded = mixed(parts)
    assert (by_task(loaded.train), by_task(loaded.validation)) == ({"know": 16, "like": 10}, {"know": 2, "like": 2})


@pytest.mark.parametrize(
    ("task", "words"), [("bolq", "dataset.parts.know.tasks = 'bolq'"), ("piqa", "dataset.parts.know.path = 'all': no rows of piqa")]
)
def test_mistakes_in_a_part_name_it(task: str, words: str) -> None:
    write("boolq", yes_or_no(range(10)))
    assert complaint(lambda: mixed(f"{{know: {{source: tasks, tasks: [{task}], path: all}}}}")).startswith(words)
