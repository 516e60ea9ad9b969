"""Labels whose judge is a server that misbehaves, from the command line to the rows."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Fault, answer, chatting, cut_off, hang_up, healthy
from commands import Commands

from alignkit.judges.revising import REVIEWER, REWRITER

IN_FLIGHT = 2
FLAKY: Mapping[int, Fault] = {
    1: answer(b"broken", 500),
    2: cut_off,
    4: answer(b"<html>", Content_Type="text/html"),
    6: answer(b"", 429, Retry_After="0"),
    8: hang_up,
    9: answer(healthy("", choices=[])),
}
"""Faults by the last digit of a request's number."""


def longer(messages: Sequence[Mapping[str, str]]) -> str:
    """The longer answer is better; of one prompt nothing can be read."""
    prompt, one, other = messages[-1]["content"].split("|")
    if prompt == "Question 3?":
        return "[[D]] neither"
    return "[[A]]" if len(one) > len(other) else "[[B]]" if len(other) > len(one) else "[[C]]"


def rows(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]


def words(server: ChatServer, tmp_path: Path, name: str) -> list[str]:
    (tmp_path / "prompts.txt").write_text("".join(f"Question {number}?\n" for number in range(6)), encoding="utf-8")
    judge = [
        "judge=http",
        f"judge.url={server.url}",
        "judge.model=m",
        "judge.template='{prompt}|{first}|{second}'",
        "judge.system=null",
        f"judge.concurrency={IN_FLIGHT}",
        "judge.backoff=0.001",
        "judge.retries=9",
    ]
    own = [f"prompts={tmp_path / 'prompts.txt'}", "samples=3", "max_tokens=8", "batch.pairs=2", "callbacks.progress_bar=false"]
    return [*judge, *own, f"cache_dir={tmp_path / name}-cache", f"run_dir={tmp_path / name}"]


def test_a_run_that_is_killed_and_goes_on_with_a_flaky_server_gives_the_rows_of_an_undisturbed_one(
    commands: Commands, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    is_flaky = False
    with chatting(longer, lambda number: FLAKY.get(number % 10) if is_flaky else None) as server:
        assert commands(*words(server, tmp_path, "whole"), log=log, command="alignkit.label") == 0, log.read_text()
        questions = set(server.answered)
        assert len(questions) == len(server.requests)
        server.answered.clear()
        is_flaky = True
        killed = {"at": "alignkit.judges.reply_cache:ReplyCache.write", "call": len(questions) // 2, "signal": signal.SIGKILL}
        assert commands(*words(server, tmp_path, "killed"), log=log, command="alignkit.label", **killed) == -signal.SIGKILL
        assert len(rows(tmp_path / "killed")) < len(rows(tmp_path / "whole"))
        again = [f"resume={tmp_path / 'killed'}"]
        assert commands(*again, log=log, command="alignkit.label") == 0, log.read_text()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert {row["prompt"][0]["content"] if isinstance(row["prompt"], list) else row["prompt"] for row in rows(tmp_path / "whole")} <= {
        f"Question {number}?" for number in (0, 1, 2, 4, 5)
    }
    # What was on its way when the process was killed is all that was asked twice.
    assert server.answered.keys() == questions
    assert sum(server.answered.values()) - len(questions) <= IN_FLIGHT
    whole, gone_on = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed"))
    of_machine = {"seconds", "judging_seconds", "peak_memory_bytes"}
    assert {key: whole[key] for key in whole.keys() - of_machine} == {key: gone_on[key] for key in gone_on.keys() - of_machine}
    assert whole["unread"] == 6  # both orders of three pairs


def test_a_critic_that_cannot_criticise_makes_no_data_and_that_is_one_message(commands: Commands, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    own = ["judge=llm", "form=revisions", "samples=1", "max_tokens=8", "query=random", "count=3", f"run_dir={tmp_path / 'run'}"]
    assert commands(*own, "callbacks.progress_bar=false", log=log, command="alignkit.label") == 2
    (message,) = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("no label: ")]
    assert message.startswith("no label: 0 of 3 critiques and 0 of 0 revisions could be read (")
    assert rows(tmp_path / "run") == []


def speak(messages: Sequence[Mapping[str, str]]) -> str:
    """A critic, and a judge who likes long answers."""
    told, asked = (message["content"] for message in messages)
    if told.startswith(REWRITER):
        return f"Sure, here is the revised answer:\n\n{asked} indeed ."
    if told == REVIEWER:
        return "The answer could be longer."
    one, other = asked.split("Answer A:\n")[1].split("\n\nAnswer B:\n")
    return "A" if len(one) > len(other.partition("\n\nYou are the judge.")[0]) else "B"


@pytest.mark.slow
def test_the_pipeline_revises_imitates_compares_and_learns(commands: Commands, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with chatting(speak) as server:
        by = f"{{judge: http, url: '{server.url}', model: m}}"
        pipeline = [
            "pipeline=constitutional",
            "dataset.format=text",
            "stages.revise.judge=http",
            f"stages.revise.judge.url={server.url}",
            "stages.revise.judge.model=m",
            "stages.revise.count=24",
            f"stages.labels.judge.by={by}",
            "stages.revise.max_tokens=12",
            "stages.labels.max_tokens=12",
            "schedule.warmup_steps=0",
            "stages.sft.steps=2",
            "stages.sft.validation.every=2",
            "stages.dpo.steps=2",
            "stages.dpo.validation.every=2",
            "stages.dpo.dataset.validation_examples=4",
            f"cache_dir={tmp_path / 'cache'}",
            f"run_dir={tmp_path / 'run'}",
        ]
        assert commands(*pipeline, log=log, command="alignkit.pipeline") == 0, log.read_text()
    revised = rows(tmp_path / "run" / "revise")
    assert len(revised) == 24
    assert all(row["chosen"] == f"{row['rejected']} indeed ." for row in revised)
    compared = rows(tmp_path / "run" / "labels")
    assert {row["prompt"] for row in compared} <= {row["prompt"] for row in revised}
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in compared)
    assert (tmp_path / "run" / "dpo" / "model").is_dir()
