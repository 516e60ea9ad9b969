"""Prompt files and benchmarks' files with damage: their own texts, with the line where each stands, or one message that names the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.data.question_rows import read_questions
from alignkit.errors import UserError
from alignkit.evaluation.tasks.catalogue import task_kinds
from alignkit.generation.prompt_reading import read_texts

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import TEXTS, altered, lines, mutated
from trials import fuzz, outcome

PROMPTS = "Why is the sky blue?\nÄÖü \u2028 x\n\n{{ 1 }}\n".encode()
ROWS = [{"prompt": "p"}, {"prompt": [{"role": "user", "content": "q"}]}, {"prompt": "4", "other": 1e-12}]
QUESTIONS = [{"question": "Who won?", "sentence": "Bob lost.", "label": 1}, {"question": "4", "sentence": "null", "label": "entailment"}]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Path]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@fuzz(80)
@given(content=mutated(PROMPTS))
@example(content=b"a\rb\x0cc\x1c\n\r\n")
def test_a_file_of_lines_gives_its_lines_with_their_numbers(content: bytes, file: Callable[[str, bytes], Path]) -> None:
    path = file("prompts.txt", content)
    found = outcome(lambda: list(read_texts(str(path), "prompts", "prompt")))
    if isinstance(found, UserError):
        assert str(found).startswith(f"prompts = {path}")
        assert not content.strip() or not _is_text(content), "sound lines were refused"
        return
    numbered = dict(enumerate(content.decode("utf-8-sig").split("\n"), start=1))
    for prompt in found:
        line = numbered[int(prompt.place.rpartition("line ")[2])]
        assert prompt.example.prompt == line.removesuffix("\r")
    assert len(found) == sum(bool(line.removesuffix("\r")) for line in numbered.values())


def _is_text(content: bytes) -> bool:
    try:
        return "\x00" not in content.decode()
    except UnicodeDecodeError:
        return False


@fuzz(60)
@given(content=mutated(lines(*ROWS)) | altered(ROWS).filter(lambda rows: isinstance(rows, list)).map(lambda rows: lines(*rows)))
def test_a_table_of_prompts_gives_its_own_texts_or_a_message(content: bytes, file: Callable[[str, bytes], Path]) -> None:
    path = file("prompts.jsonl", content)
    found = outcome(lambda: list(read_texts(str(path), "prompts", "prompt")))
    if isinstance(found, UserError):
        assert str(found).startswith(f"prompts = {path}")
        return
    rows = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    for prompt, row in zip(found, rows, strict=True):
        turns = prompt.example.prompt
        assert row["prompt"] == (
            turns if isinstance(turns, str) else [{**raw, "content": turn.content} for turn, raw in zip(turns, row["prompt"], strict=True)]
        )


@fuzz(60)
@given(content=mutated(lines(*QUESTIONS)) | altered(QUESTIONS).filter(lambda rows: isinstance(rows, list)).map(lambda rows: lines(*rows)))
@example(content=lines({"question": "2020-01-01", "sentence": "2020-01-01", "label": 0}))
def test_a_benchmarks_file_asks_with_its_own_texts_or_is_refused(content: bytes, file: Callable[[str, bytes], Path]) -> None:
    path = file("qnli.jsonl", content)
    task = task_kinds()["qnli"](listed=None)
    found = outcome(lambda: read_questions(task, "qnli", str(path), train=False, where="evaluation.path"))
    if isinstance(found, UserError):
        assert "evaluation.path" in str(found)
        return
    rows = [json.loads(line) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    asked = [
        f"{row['question']}\n{row['sentence']}\n"
        for row in rows
        if isinstance(row.get("question"), str) and isinstance(row.get("sentence"), str)
    ]
    assert all(isinstance(question.prompt, str) and question.prompt.startswith(tuple(asked)) for question in found.questions)


@fuzz(60)
@given(text=TEXTS | st.text(max_size=30))
def test_every_text_that_json_can_hold_comes_back_out_of_a_prompt_file(text: str, file: Callable[[str, bytes], Path]) -> None:
    content = json.dumps({"prompt": text}).encode() + b"\n"
    found = outcome(lambda: list(read_texts(str(file("prompts.jsonl", content)), "prompts", "prompt")))
    if isinstance(found, UserError):
        assert any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text), found
    else:
        assert [prompt.example.prompt for prompt in found] == [text]
