"""Labels of earlier runs in a new file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.examples import Message, PreferenceExample
from alignkit.errors import UserError
from alignkit.judge_settings import JudgeSettings
from alignkit.label_settings import LabelSettings
from alignkit.labelling.earlier import not_yet, read_earlier
from alignkit.labelling.pool import Entry

PAIR = {"prompt": "p", "chosen": " a", "rejected": " b"}


def own(*files: str, **keys: Any) -> LabelSettings:
    return LabelSettings(judge=JudgeSettings(name="gold", options={}), earlier=list(files), **keys)


def entry(prompt: str | tuple[Message, ...], *answers: str) -> Entry:
    return Entry(example=PreferenceExample(prompt=prompt, completions=answers), place="here")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return name


def test_rows_stand_as_they_were_each_once() -> None:
    second = {**PAIR, "prompt": "q", "provenance": {"batch": 0}}
    files = (write("a.jsonl", PAIR, second), write("b.jsonl", second, PAIR, {**PAIR, "chosen": " c"}))
    found = read_earlier(own(*files))
    assert found.lines == tuple(f"{json.dumps(row)}\n" for row in (PAIR, second, {**PAIR, "chosen": " c"}))


def test_their_prompts_are_not_asked_again() -> None:
    turns = [{"role": "user", "content": "Hi"}]
    settings = own(write("a.jsonl", PAIR, {**PAIR, "prompt": turns}))
    pool = [entry("p"), entry("r"), entry((Message(role="user", content="Hi"),)), entry("Hi")]
    left = not_yet(pool, read_earlier(settings), settings)
    assert [one.example.prompt for one in left] == ["r", "Hi"]
    with pytest.raises(UserError, match="earlier: all 1 prompts of prompts=dataset are labelled there"):
        not_yet(pool[:1], read_earlier(settings), settings)


def test_of_a_data_set_the_same_prompt_with_other_answers_is_asked() -> None:
    settings = own(write("a.jsonl", PAIR), candidates=["dataset:train"])
    pool = [entry("p", " b", " a"), entry("p", " a", " c"), entry("p", " c", " b", " a")]
    assert not_yet(pool, read_earlier(settings), settings) == [pool[1]]


def test_what_was_judged_without_a_label_is_not_asked_again_either() -> None:
    settings = own(write("run/labels.jsonl", PAIR))
    write("run/judged.jsonl", {"prompt": "p", "completions": [" a", " b"]}, {"prompt": "tied", "completions": [" a", " b"]})
    assert [one.example.prompt for one in not_yet([entry("tied"), entry("r")], read_earlier(settings), settings)] == ["r"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "prompt,chosen,rejected\n", r"earlier names 'a\.csv': .* must be a \.jsonl file"),
        ("a.jsonl", '{"prompt": "p"', r"a\.jsonl, line 1 is not JSON"),
        ("a.jsonl", "[]\n", r"a\.jsonl, line 1 is no JSON object"),
        (
            "a.jsonl",
            json.dumps(PAIR) + '\n{"prompt": "p", "completions": [" a"], "ranks": [0]}\n',
            r"line 2 has no chosen and no rejected; with form=pairs",
        ),
        ("a.jsonl", '{"prompt": null, "chosen": "a", "rejected": "b"}\n', r"line 1 'prompt' is null"),
    ],
)
def test_a_file_of_something_else_is_refused(name: str, content: str, words: str) -> None:
    Path(name).write_text(content)
    with pytest.raises(UserError, match=words):
        read_earlier(own(name))
