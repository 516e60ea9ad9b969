"""`python -m alignkit.label` as a user runs it: sampling and judging, answers that are there, and going on after being killed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from alignkit import label as shell
from alignkit.command_line import read_flags
from alignkit.errors import UserError
from alignkit.judges.judge import Candidates, Judgement
from alignkit.judges.llm import Llm
from alignkit.judges.writer import Reply
from alignkit.labelling import judging
from alignkit.labelling.journal import Journal
from alignkit.labelling.resumption import labelling_to_resume
from alignkit.labelling.work import carry_on, carry_out
from alignkit.models.location import locate
from alignkit.run_dir import RunDir, Scalar
from alignkit.scorers.sentiment import compound

SAMPLED = (
    "judge=gold",
    "dataset.validation_examples=6",
    "dataset.pairs=20",
    "batch.pairs=2",
    "max_tokens=16",
    "callbacks.progress_bar=false",
)
Labelled = tuple[RunDir, dict[str, Scalar], list[dict[str, Any]]]
Label = Callable[..., Labelled]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Label:
    """Runs the command's work in this process: the run's directory, its results and its labels."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> Labelled:
        labelling = shell.parse(["batch.pairs=2", *overrides]).labelling
        made = RunDir.create(tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}")
        return made, carry_out(labelling, made), rows(made.path / "labels.jsonl")

    return run


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Answers to five prompts: the score of ` good` is above that of ` film`, which is 0, and that of ` bad` is below."""
    file = tmp_path / "answers.jsonl"
    words = [[" good", " bad"], [" film", " good", " bad"], [" film", " cinema"], [" good"], [" bad", " good", " good "]]
    file.write_text("".join(json.dumps({"prompt": f"p{place}", "completions": own}) + "\n" for place, own in enumerate(words)))
    return file


def resume(run: RunDir, *typed: str) -> dict[str, Scalar]:
    """Goes on with a run as the command does."""
    found = labelling_to_resume(read_flags([f"resume={run.path}", *typed]))
    assert found is not None
    return carry_on(found[1], found[0])


def stopping_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the run be interrupted as it is about to write for the so-manieth time."""
    append, calls = Journal.append, 0

    def counted(self: Journal, added: Sequence[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        append(self, added)

    monkeypatch.setattr(Journal, "append", counted)


def test_a_run_that_is_killed_goes_on_to_the_same_rows_and_they_train(commands: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"

    def order(*argv: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = commands.order(*argv, command="alignkit.label", log=log, folder=tmp_path, **more)
        return found

    write = {"signal": signal.SIGKILL, "at": "alignkit.labelling.journal:Journal.append"}
    assert commands.together(order(*SAMPLED, "run_dir=whole"), order(*SAMPLED, "run_dir=before", call=3, **write)) == [0, -9], (
        log.read_text()
    )
    whole, before, between = (tmp_path / name for name in ("whole", "before", "between"))
    assert [len(rows(before / name)) for name in ("judged.jsonl", "labels.jsonl")] == [2, 2], "the batch in flight is lost"
    shutil.copytree(before, between)  # as it is where a batch is judged and its labels are not written
    (between / "judged.jsonl").write_text("".join((whole / "judged.jsonl").read_text().splitlines(keepends=True)[:4]))
    for name in ("judged.jsonl", "labels.jsonl"):
        with (before / name).open("a") as file:
            file.write('{"batch": 1, "prompt": "torn')
    train = ("model=tiny", "loss=dpo", "dataset=local", "dataset.path=whole/labels.jsonl", "dataset.validation_examples=2", "run_dir=dpo")
    small = ("steps=1", "schedule.warmup_steps=0", "validation.samples=0", "logger=jsonl", "callbacks.checkpoints=false")
    training = commands.order(*train, *small, log=log, folder=tmp_path)
    assert commands.together(order("resume=before"), order("resume=between"), training) == [0, 0, 0], log.read_text()
    for run in (before, between):
        for name in ("judged.jsonl", "labels.jsonl"):
            assert (run / name).read_bytes() == (whole / name).read_bytes()
        found, expected = (json.loads((folder / "results.json").read_text()) for folder in (run, whole))
        assert {name for name in expected if found[name] != expected[name]} <= {"judging_seconds", "seconds", "peak_memory_bytes"}
    assert json.loads((tmp_path / "dpo" / "results.json").read_text())["steps"] == 1
    check_labels_of_samples(RunDir(whole))


def check_labels_of_samples(run: RunDir) -> None:
    """Of the samples of a prompt the best is chosen and the worst rejected, by the gold reward of their texts."""
    labels, results = rows(run.path / "labels.jsonl"), json.loads(run.results.read_text())
    judged = {row["prompt"]: row for row in rows(run.path / "judged.jsonl")}
    assert len(judged) == results["prompts"] == 6
    assert results["labels"] == len(labels) == 6 - results.get("left_out/tie", 0)
    for row in labels:
        scores = {text: compound(text) for text in judged[row["prompt"]]["completions"]}
        assert row["chosen_rating"] == pytest.approx(max(scores.values()), abs=1e-6)
        assert row["rejected_rating"] == pytest.approx(min(scores.values()), abs=1e-6)
        assert (scores[row["chosen"]], scores[row["rejected"]]) == (max(scores.values()), min(scores.values()))
        provenance = row["provenance"]
        assert provenance["model"] == {"path": "builtin:tiny", "fingerprint": results["policy_fingerprint"]}
        assert (provenance["judge"], provenance["seed"], provenance["sampling"]["max_tokens"]) == (
            {"name": "scorer", "scorer": "vader"},
            0,
            16,
        )
        assert provenance["batch"] == judged[row["prompt"]]["batch"]
    assert results["score/chosen"] == pytest.approx(fmean(compound(row["chosen"]) for row in labels), abs=1e-6)
    assert results["score/rejected"] < results["score/chosen"]
    assert results["samples"] == 24
    assert results["tokens"] == sum(row["drawn_tokens"] for row in judged.values())


def test_answers_that_are_there_are_judged_without_weights(label: Label, answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.evaluating.player.load_backbone", lambda *_: pytest.fail("weights were loaded"))
    _, results, labels = label("judge=gold", f"candidates=[{answers}]", "validation.gold=length", f"out={answers.parent / 'copy.jsonl'}")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in labels] == [
        (prompt, " good", " bad") for prompt in ("p0", "p1", "p4")
    ]
    assert (results["left_out/tie"], results["left_out/one_answer"], results["pool"], results["prompts"]) == (1, 1, 5, 4)
    assert labels[0]["provenance"]["model"] is None
    assert (results["gold/chosen"], results["gold/rejected"], results["gold/agreement"]) == (-19, -19, 0.5)  # all answers have one word
    assert rows(answers.parent / "copy.jsonl") == labels


def test_earlier_labels_come_first_and_the_budget_goes_to_other_prompts(label: Label) -> None:
    data = ("candidates=dataset:train", "dataset.pairs=12", "dataset.validation_examples=2", "judge=labels")
    first, results, labels = label(*data, "query=random", "count=4")
    assert (results["labels"], results["earlier_labels"], len(labels)) == (4, 0, 4)
    _, results, both = label(*data, "query=random", "count=5", "seed=1", f"earlier=[{first.path / 'labels.jsonl'}]")
    assert (results["labels"], results["earlier_labels"]) == (5, 4)
    assert both[:4] == labels
    assert len({(row["prompt"], row["chosen"]) for row in both}) == 9
    with pytest.raises(UserError, match=r"count = 9: there are 8 prompts without a label\. Type count=8, or less"):
        label(*data, "query=random", "count=9", f"earlier=[{first.path / 'labels.jsonl'}]")


def test_labels_are_those_of_the_data_set_wherever_its_answers_stand(label: Label) -> None:
    _, results, labels = label(
        "candidates=dataset:train", "dataset.pairs=12", "dataset.validation_examples=2", "judge=labels", "dataset.noise=0"
    )
    assert results["labels"] == 12
    assert all(compound(row["chosen"]) > compound(row["rejected"]) for row in labels)
    assert {tuple(row["provenance"]["answers"]) for row in labels} == {(0, 1), (1, 0)}


def test_the_least_sure_prompts_are_labelled_first(label: Label, answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = ("judge=gold", f"candidates=[{answers}]", "query=margin", "scorer=vader", "count=2")
    run, results, labels = label(*query)
    assert results["pool"] == 5
    assert (results["prompts"], results["left_out/tie"]) == (2, 1), "the tie of p2 is what the scorer is least sure of"
    pool = rows(run.path / "pool.jsonl")
    assert [row["scores"] for row in pool] == [pytest.approx([compound(text) for text in row["completions"]]) for row in pool]
    stopping_at(2, monkeypatch)
    labelling = shell.parse(["batch.pairs=2", *query]).labelling
    stopped = RunDir.create(run.path.with_name("stopped"))
    with pytest.raises(KeyboardInterrupt):
        carry_out(labelling, stopped)
    monkeypatch.undo()
    assert len(rows(stopped.path / "pool.jsonl")) == 2
    assert resume(stopped) == {
        **results,
        **{name: pytest.approx(0, abs=1e12) for name in ("judging_seconds", "seconds", "peak_memory_bytes")},
    }
    assert rows(stopped.path / "labels.jsonl") == labels


def test_other_answers_or_weights_than_it_began_with_are_refused(label: Label, answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        label("judge=gold", f"candidates=[{answers}]")
    run = RunDir(answers.parent / "run-0")
    before, old = (run.path / "labels.jsonl").read_bytes(), answers.read_text()
    answers.write_text(old.replace(" bad", " awful"))
    with pytest.raises(UserError, match=r"run-0: the prompts, or the answers to them, are not what they were when it began"):
        resume(run)
    assert (run.path / "labels.jsonl").read_bytes() == before
    answers.write_text(old)
    assert resume(run)["labels"] == 3


@pytest.fixture
def other_weights(tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """A copy of the tiny model, and what makes another one of it."""
    folder = tmp_path / "tiny"
    shutil.copytree(locate("model.path", "builtin:tiny"), folder)

    def change() -> None:
        file = folder / "model.safetensors"
        weights = load_file(file)
        name = sorted(weights)[0]
        save_file({**weights, name: weights[name] + 1e-3}, file, metadata={"format": "pt"})

    return folder, change


def test_other_weights_are_refused_before_anything_is_sampled(
    label: Label, other_weights: tuple[Path, Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, change = other_weights
    stopping_at(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        label(*SAMPLED, f"model.path={folder}", "samples=2", "max_tokens=4")
    change()
    with pytest.raises(UserError, match=r"the weights at model.path are not what they were when it began"):
        resume(RunDir(tmp_path / "run-0"))


def test_what_the_judge_was_not_understood_on_is_counted_and_has_no_label(
    label: Label, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_read(asked: Sequence[Candidates]) -> list[Judgement]:
        known = {" good": 2.0, " film": 1.0}
        return [
            Judgement(scores=tuple(known.get(text) for text in one.completions), replies=2, unread=1, reasons={"cut": 1}) for one in asked
        ]

    monkeypatch.setattr(judging, "judging", lambda _, judging=judging.judging: judging(half_read))
    _, results, labels = label("judge=gold", f"candidates=[{answers}]")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in labels] == [("p1", " good", " film")]
    assert (results["left_out/unread"], results["replies"], results["unread"], results["unread_share"], results["unread/cut"]) == (
        3,
        8,
        4,
        0.5,
        4,
    )


def test_revisions_are_imitated_and_preferred(label: Label, answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def write(questions: Sequence[Any]) -> list[Reply]:
        asked.append(len(questions))  # critiques, then revisions
        text = "The answer is too short." if len(asked) % 2 else "A finer film."
        return [Reply(text=text, finished=True) for _ in questions]

    monkeypatch.setattr(Llm, "open_writer", lambda *_, **__: write)
    _, results, labels = label("judge=llm", f"candidates=[{answers}]", "form=revisions", "count=2")
    assert [(row["chosen"], row["rejected"]) for row in labels] == [
        (" A finer film.", word) for word in (" good", " bad", " film", " good", " bad")
    ]
    assert asked == [5, 5]
    assert labels[0]["provenance"]["critiques"] == ["The answer is too short."]
    assert (results["replies"], results["unread"], results["labels"], results["prompts"]) == (10, 0, 5, 2)
