"""Our log-probs are those of lm-evaluation-harness, item by item, on real rows asked by the harness's own definitions of its tasks."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from alignkit.evaluate import parse
from alignkit.evaluating.config import carry_out
from alignkit.run_dir import RunDir, read_jsonl

harness = pytest.importorskip("lm_eval.tasks")
Row = dict[str, Any]
LETTERS = "ABCDE"
BASIS = 1e-4
"""Allowed difference, of the larger of 1 and the log-prob: both sum float32 in another order."""


def hellaswag(row: Row) -> Row:
    return row


def winogrande(row: Row) -> Row:
    """Contexts differ from some word on: there the blank is."""
    first, second = row["context_options"]
    alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    begun = first[: first.rfind(" ", 0, alike) + 1]
    sentence = f"{begun}_ {row['continuation']}"
    return {
        "sentence": sentence,
        "option1": first.removeprefix(begun),
        "option2": second.removeprefix(begun),
        "answer": str(row["gold"] + 1),
    }


def boolq(row: Row) -> Row:
    passage, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": row["gold"]}


def listed(row: Row) -> Row:
    return {"text": row["choices"], "label": list(LETTERS[: len(row["choices"])])}


def arc_challenge(row: Row) -> Row:
    return {"question": row["query"].removeprefix("Question: "), "choices": listed(row), "answerKey": LETTERS[row["gold"]]}


def openbookqa(row: Row) -> Row:
    return {"question_stem": row["query"], "choices": listed(row), "answerKey": LETTERS[row["gold"]]}


TASKS: Mapping[str, tuple[str, str, Callable[[Row], Row]]] = {
    "hellaswag": ("hellaswag/validation_1000.jsonl.gz", "hellaswag/hellaswag.yaml", hellaswag),
    "winogrande": ("winogrande/validation_foundry.jsonl.gz", "winogrande/default.yaml", winogrande),
    "boolq": ("boolq/validation_foundry.jsonl.gz", "super_glue/boolq/default.yaml", boolq),
    "arc_challenge": ("arc_challenge/test_foundry.jsonl.gz", "arc/arc_challenge.yaml", arc_challenge),
    "openbookqa": ("openbookqa/test_foundry.jsonl.gz", "openbookqa/openbookqa.yaml", openbookqa),
}
"""Real rows, the harness's definition, and how a row is made one of the hub's."""
NORMALISED = ("hellaswag", "arc_challenge", "openbookqa")
"""Where the harness reports `acc_norm`."""


def model_at(shared: Path) -> str:
    return os.environ.get("ALIGNKIT_SMOLLM2", str(shared / "models/stories260k"))


def rows_of(shared: Path, task: str, tokenizer: Any, room: int, most: int | None) -> list[Row]:
    """Rows that fit the model whole: too long ones are cut at other places by the two."""
    file, _, as_on_hub = TASKS[task]
    with gzip.open(shared / "data" / file, "rt", encoding="utf-8") as lines:
        rows = (as_on_hub(json.loads(line)) for line in lines)
        fitting = (row for row in rows if len(tokenizer(json.dumps(row))["input_ids"]) < room)
        return list(itertools.islice(fitting, most))


def evaluated(place: Path, *overrides: str) -> RunDir:
    run = RunDir.create(place)
    carry_out(parse(["logger=jsonl", "hardware=cpu", *overrides]).evaluation, run)
    return run


def both(shared: Path, tmp_path: Path, most: int | None) -> tuple[RunDir, RunDir]:
    """The same rows by alignkit and by the harness."""
    model = model_at(shared)
    tokenizer = AutoTokenizer.from_pretrained(model)
    room = json.loads((Path(model) / "config.json").read_text())["max_position_embeddings"]
    data, tasks = tmp_path / "data", tmp_path / "redirected"
    tasks.mkdir()
    for name, (_, definition, _) in TASKS.items():
        (data / name).mkdir(parents=True)
        file = data / name / "validation.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(shared, name, tokenizer, room, most)))
        files = ", ".join(f"{split}: {file}" for split in ("train", "validation", "test"))
        (tasks / f"{name}.yaml").write_text(
            f"include: {Path(harness.__file__).parent / definition}\n"
            f"dataset_path: json\ndataset_name: null\ndataset_kwargs: {{data_files: {{{files}}}}}\n"
        )
    asked = f"evaluation.tasks=[{','.join(TASKS)}]"
    ours = evaluated(tmp_path / "ours", f"model.path={model}", "evaluation=gpt4all", asked, f"evaluation.path={data}")
    theirs = evaluated(
        tmp_path / "theirs",
        *(f"model.path={model}", "evaluation=lm_eval", asked, f"evaluation.include_path={tasks}", "allow_code=[redirected]"),
    )
    return ours, theirs


def answers(file: Path, read: Callable[[Row], list[float]]) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Log-probs of each row's candidates, by task."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in TASKS}
    for row in read_jsonl(file):
        found[str(row["task"])].append(np.array(read(row)))
    return found


def close(scores: np.ndarray[Any, Any], difference: float) -> bool:
    """Whether the best two of a row are as near as the two sides differ, relative to the scores."""
    second, best = np.sort(scores)[-2:]
    return bool(best - second <= 2 * difference * max(1.0, abs(best)))


def check(ours: RunDir, theirs: RunDir) -> None:
    mine = answers(ours.path / "questions.jsonl", lambda row: row["scores"]["logp_sum"])
    by_characters = answers(ours.path / "questions.jsonl", lambda row: row["scores"]["logp_characters"])
    its = answers(theirs.samples, lambda row: row["log_probs"])
    results, measured = json.loads(ours.results.read_text()), json.loads(theirs.results.read_text())
    for name in TASKS:
        assert [len(scores) for scores in mine[name]] == [len(scores) for scores in its[name]], name
        a, b = np.concatenate(mine[name]), np.concatenate(its[name])
        differences = np.abs(a - b) / np.maximum(1.0, np.abs(b))
        largest = f"{np.abs(a - b).max():.2e}, {differences.max():.2e} of it"
        print(f"{name}: {len(its[name])} rows, {len(a)} log-probs, largest difference {largest}")
        assert differences.max() <= BASIS, (name, int(differences.argmax()))
        assert np.std(b) > 1, f"{name}: log-probs of {b.mean()} say nothing"
        for measure, scorer, scores in (("acc", "logp_sum", mine), ("acc_norm", "logp_characters", by_characters)):
            if measure == "acc_norm" and name not in NORMALISED:
                continue
            ties = sum(close(own, differences.max()) for own in scores[name])
            differing = abs(measured[f"{name}/{measure}"] - results[f"{name}/{scorer}/accuracy"]) * len(its[name])
            print(f"{name}: {measure} {measured[f'{name}/{measure}']:.4f}, {ties} ties")
            assert differing <= ties + 1e-6, (name, measure)


@pytest.mark.real
def test_log_probs_and_accuracies_are_the_harness_s(shared, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", str)  # takes seconds, and nothing of it is kept
    check(*both(shared, tmp_path, 24))


@pytest.mark.real
@pytest.mark.slow
def test_log_probs_and_accuracies_are_the_harness_s_on_every_row(shared, tmp_path):
    check(*both(shared, tmp_path, None))
