"""`validation.benchmarks`: what is asked while a run is trained is what `alignkit.evaluate` asks of what it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from alignkit import evaluate as shell
from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.evaluating.config import carry_out as carry_out_evaluation
from alignkit.evaluation_settings import LOGPS
from alignkit.job import carry_out
from alignkit.metrics import metric
from alignkit.run_dir import RunDir, Scalar, jsonable, read_jsonl

TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"
TASKS = ("arc_easy", "winogrande", "cola", "truthfulqa_mc2")
ASKED = 7
SHORT = [
    "hardware.threads=1",
    "steps=2",
    "schedule.warmup_steps=0",
    "optimizer.lr=3e-3",
    "validation.every=2",
    "validation.samples=0",
    f"validation.benchmarks=[{','.join(TASKS)}]",
    f"validation.benchmark_questions={ASKED}",
    "dataset.pairs=12",
    "dataset.validation_examples=4",
    "batch.pairs=4",
    "logger=jsonl",
    "callbacks.checkpoints=false",
    "callbacks.progress_bar=false",
]
TEMPLATE = (
    "{% for m in messages %}{{ '<|bos|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|bos|>assistant\n' }}{% endif %}"
)
Results = dict[str, Scalar]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """More rows than are asked, of candidates that differ."""
    rows: dict[str, Callable[[int], dict[str, Any]]] = {
        "arc_easy/test": lambda n: {
            "question": f"What is film {n} like?",
            "choices": {"text": [f"{word} {n}" for word in ("good", "bad", "long", "dull")[: 2 + n % 3]],
                        "label": list("ABCD"[: 2 + n % 3])},
            "answerKey": "AB"[n % 2],
        },
        "winogrande/validation": lambda n: {
            "sentence": f"Ann saw Bea as _ liked film {n}.", "option1": "Ann", "option2": "Bea", "answer": str(1 + n % 2),
        },
        "cola/validation": lambda n: {"sentence": f"Film {n} it is." if n % 2 else f"It is film {n}.", "label": n % 2},
        "truthfulqa/rows": lambda n: {
            "question": f"Is {n} a film?", "mc1_targets": {"choices": ["yes", "no"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["yes", "of course", "no"], "labels": [1, 1, 0]},
        },
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("bench")
    for name, row in rows.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(row(n)) + "\n" for n in range(ASKED + 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


def train(folder: Path, bench: Path, *overrides: str) -> tuple[RunDir, Results]:
    (settings,) = precheck([*SHORT, f"validation.benchmark_path={bench}", *overrides])
    run = RunDir.create(folder)
    return run, carry_out(settings, run)


def evaluated(folder: Path, bench: Path, model: str | Path) -> Results:
    """What is said afterwards of the same questions."""
    argv = ["evaluation=gpt4all", f"evaluation.path={bench}", f"evaluation.tasks=[{','.join(TASKS)}]", f"evaluation.limit={ASKED}"]
    evaluation = shell.parse([*argv, "evaluation.resamples=100", f"model.path={model}", "logger=jsonl"]).evaluation
    return carry_out_evaluation(evaluation, RunDir.create(folder))


def scores(results: Results) -> Results:
    """Of an evaluation, under the names that a run logs."""
    return {
        f"benchmark/{name.removesuffix('/score')}": jsonable(value)
        for name, value in results.items()
        if name.endswith("/score") and name.count("/") == 2
    }


def logged(run: RunDir) -> dict[int, Results]:
    """What a run logged of benchmarks, by step."""
    rows: dict[int, Results] = {}
    for row in read_jsonl(run.metrics):
        own = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/benchmark/")}
        rows.setdefault(int(row["step"] or 0), {}).update(own)
    return {step: own for step, own in rows.items() if own}


@pytest.fixture(scope="module")
def joint(bench: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Results]:
    """A run of two steps in which trunk and head move."""
    return train(tmp_path_factory.mktemp("joint") / "run", bench, "loss=con_dph")


def test_scores_of_the_last_step_are_those_of_the_exported_run(joint: tuple[RunDir, Results], bench: Path, tmp_path: Path) -> None:
    run, results = joint
    after = scores(evaluated(tmp_path / "after", bench, run.path))
    assert after.keys() == {f"benchmark/{task}/{name}" for task in TASKS for name in (*LOGPS, "dph")}
    assert logged(run)[2] == pytest.approx(after)
    assert {name.removeprefix("val/"): value for name, value in results.items() if name.startswith("val/benchmark/")} == logged(run)[2]


def test_scores_before_the_first_step_are_those_of_the_model_it_began_from(
    joint: tuple[RunDir, Results], bench: Path, tmp_path: Path
) -> None:
    run, results = joint
    before = logged(run)[0]
    of_logps = {name: value for name, value in before.items() if not name.endswith("/dph")}
    assert of_logps == pytest.approx(scores(evaluated(tmp_path / "before", bench, "builtin:tiny")))
    assert before.keys() == logged(run)[2].keys()
    assert before != logged(run)[2], "training moved something"
    assert results["start/val/benchmark/arc_easy/dph"] == before["benchmark/arc_easy/dph"]


def test_what_is_undefined_is_null_and_every_name_has_a_meaning(joint: tuple[RunDir, Results]) -> None:
    run, _ = joint
    for own in logged(run).values():
        assert own["benchmark/truthfulqa_mc2/dph"] is None
        assert isinstance(own["benchmark/truthfulqa_mc2/logp_sum"], float)
        assert all(metric(name).better == "higher" for name in own)


def test_a_frozen_trunk_whose_states_are_kept_is_asked_too(bench: Path, tmp_path: Path) -> None:
    run, _ = train(tmp_path / "run", bench, "loss=sep_dph", "loss.dpo_weight=0", "model.train=heads")
    first, last = logged(run)[0], logged(run)[2]
    assert {name: value for name, value in first.items() if "logp" in name} == {name: last[name] for name in first if "logp" in name}
    assert last == pytest.approx(scores(evaluated(tmp_path / "after", bench, run.path)))


def test_questions_are_written_as_the_data_of_the_run_are(bench: Path, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "base")
    pairs = [{"prompt": [{"role": "user", "content": f"Film {n}?"}], "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    run = RunDir.create(tmp_path / "run")
    data = ["dataset=local", f"dataset.path={tmp_path / 'pairs.jsonl'}", "model=hf", f"model.path={tmp_path / 'base'}"]
    short = [line for line in SHORT if not line.startswith("dataset.pairs")]
    (settings,) = precheck([*short, f"validation.benchmark_path={bench}", *data, "dataset.validation_examples=4", "loss=reward"])
    carry_out(settings, run)
    assert json.loads(run.texts.read_text())["kind"] == "chat"
    assert logged(run)[2] == pytest.approx(scores(evaluated(tmp_path / "after", bench, run.path)))


def test_a_policy_that_is_trained_on_its_samples_is_asked_too(bench: Path, tmp_path: Path) -> None:
    rollout = ["loss=rloo", "scorer=vader", "rollout.max_tokens=4", "rollout.samples=2"]
    run, _ = train(tmp_path / "run", bench, *rollout)
    assert logged(run)[2] == pytest.approx(scores(evaluated(tmp_path / "after", bench, run.path)))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["validation.benchmarks=[arc_esy]"], "validation.benchmarks = 'arc_esy'; must be one of arc_challenge, arc_easy, "),
        (["validation.benchmarks=[arc_esy]"], "Did you mean 'arc_easy'?"),
        (["validation.benchmarks=arc_easy"], "validation.benchmarks = 'arc_easy'; must be a list"),
        (["validation.benchmark_path=nowhere"], "validation.benchmark_path = 'nowhere'; there is no such file"),
        (["validation.benchmark_questions=0"], "validation.benchmark_questions = 0; must be a number in [1, inf)"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_loaded(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        precheck(overrides)
    assert words in str(caught.value)


def test_rows_that_are_not_there_are_asked_for(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^validation\.benchmark_path = .*: no rows of piqa to evaluate"):
        train(tmp_path / "run", bench, "validation.benchmarks=[piqa]")
