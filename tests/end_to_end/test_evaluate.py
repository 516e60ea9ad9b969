"""`python -m alignkit.evaluate` as a user runs it: benchmarks from files, by all who can score, and what is left behind."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from alignkit import evaluate as shell
from alignkit.command_line import precheck
from alignkit.data.question_rows import read_questions
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluating.config import carry_out, check_buildable, check_places, check_scorers
from alignkit.evaluation.intervals import wilson
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation_settings import LOGPS
from alignkit.job import carry_out as carry_out_training
from alignkit.models.export import load_aligned
from alignkit.run_dir import RunDir, Scalar, jsonable
from alignkit.scorers.sentiment import compound

TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"
FILMS = ("The Café", "Der Fluß", "東京", "Naïve 🙂", "a b c")
TASKS = "evaluation.tasks=[arc_easy,boolq,winogrande,stsb,race]"
COMMON = ("logger=jsonl", "evaluation.resamples=100", "evaluation=gpt4all", TASKS)
SHORT = (
    "steps=3",
    "schedule.warmup_steps=1",
    "validation.samples=0",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
    "logger=jsonl",
    "batch.pairs=4",
    "dataset.max_length=200",
    "dataset.validation_examples=4",
)
TEMPLATE = (
    "{% for m in messages %}{{ '<|bos|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|bos|>assistant\n' }}{% endif %}"
)
Evaluated = tuple[RunDir, dict[str, Scalar], list[dict[str, Any]]]
Evaluate = Callable[..., Evaluated]


def exam(number: int, mark: str) -> dict[str, Any]:
    """A row of ARC with three to five options."""
    labels = "ABCDE"[: 3 + number % 3]
    texts = [f"it is {FILMS[number % 5]} {label}" for label in labels]
    return {
        "question": f"What is {mark} {FILMS[number % 5]} {number}?",
        "choices": {"text": texts, "label": list(labels)},
        "answerKey": labels[number % len(labels)],
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of benchmarks with two to six candidates, one of them with rows to train on."""
    rows = {
        "arc_easy/train": [exam(n, "the") for n in range(20)],
        "arc_easy/test": [exam(n, "a") for n in range(9)],
        "boolq/validation": [{"passage": f"Film {n} is good.", "question": f"is film {n} good", "answer": n % 3 == 0} for n in range(8)],
        "winogrande/validation": [
            {"sentence": f"Ann saw Anna as _ liked {n}.", "option1": "Ann", "option2": "Anna", "answer": str(1 + n % 2)} for n in range(6)
        ],
        "stsb/validation": [{"sentence1": f"A film {n}.", "sentence2": f"Film {n}.", "label": (n % 11) / 2} for n in range(7)],
        "race/test": [
            {
                "article": "Ann won the long race. " * 12,
                "question": f"Who won {n}?",
                "options": ["Ann", "Bob", "Cid", "Dan"],
                "answer": "ABCD"[n % 4],
                "example_id": f"{('middle', 'high')[n % 2]}{n}.txt",
            }
            for n in range(6)
        ],
        "truthfulqa/rows": [
            {"question": f"Is {n} odd?", "mc1_targets": {"choices": ["yes", "no"], "labels": [1, 0]},
             "mc2_targets": {"choices": ["yes", "sure", "no"], "labels": [1, 1, 0]}}
            for n in range(3)
        ],
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("bench")
    for name, own in rows.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in own), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def evaluate(bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluate:
    """Runs the command's work in this process: the run's directory, its results and its questions."""
    folder = tmp_path_factory.mktemp("evaluations")

    def run(*overrides: str) -> Evaluated:
        evaluation = shell.parse([*COMMON, f"evaluation.path={bench}", *overrides]).evaluation
        check_places(evaluation)
        check_scorers(evaluation)
        check_buildable(evaluation)
        run = RunDir.create(folder / str(len(list(folder.iterdir()))))
        return run, carry_out(evaluation, run), lines(run)

    return run


def lines(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def document(run: RunDir) -> dict[str, Any]:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    loaded = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def dph(bench: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A short run with the head `dph`, trained on the rows of a benchmark."""
    data = ("dataset=tasks", f"dataset.path={bench}", "dataset.tasks=[arc_easy]")
    (settings,) = precheck([*SHORT, *data, "loss=con_dph", "loss.beta=0.3", "optimizer.lr=0.003"])
    run = RunDir.create(tmp_path_factory.mktemp("runs") / "dph")
    carry_out_training(settings, run)
    return run


@pytest.fixture(scope="module")
def plain(evaluate: Evaluate) -> Evaluated:
    """The model that ships with alignkit, by its log-probs."""
    return evaluate()


@pytest.fixture(scope="module")
def trained(evaluate: Evaluate, dph: RunDir) -> Evaluated:
    """The run, by everything that there is."""
    return evaluate(f"model.path={dph.path}", "reference.path=builtin:tiny")


def questions(bench: Path, rows: Sequence[dict[str, Any]]) -> list[Question]:
    """Those of the lines of an evaluation."""
    found: dict[tuple[str, str], Question] = {}
    for name in dict.fromkeys(row["task"] for row in rows):
        read = read_questions(find_task(name, "here", listed=None), name, str(bench), train=False, where="here")
        found |= {(name, question.digest): question for question in read.questions}
    return [found[row["task"], row["question"]] for row in rows]


@torch.no_grad()
def by_itself(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> tuple[float, int]:
    """Log-prob of a text after another one by transformers alone, in float64, and its tokens."""
    prompt, whole = (list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, before + text))
    start = next((place for place, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    logps = lm(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logps[place - 1, whole[place]]) for place in range(start, len(whole))), len(whole) - start


def test_log_probs_are_the_models_own(plain: Evaluated, bench: Path) -> None:
    _, _, rows = plain
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(TINY).eval(), AutoTokenizer.from_pretrained(TINY)
    assert [row["task"] for row in rows] == ["arc_easy"] * 9 + ["boolq"] * 8 + ["winogrande"] * 6 + ["stsb"] * 7 + ["race"] * 6
    assert {len(row["tokens"]) for row in rows} == {2, 3, 4, 5, 6}
    for row, question in list(zip(rows, questions(bench, rows), strict=True))[::3]:
        given = question.given or ("",) * len(question.candidates)
        bos = tokenizer.bos_token or ""
        prompts = [f"{bos}{question.prompt}{before}" for before in given]
        if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
            prompts = [prompt.removeprefix(bos) for prompt in prompts]
        alone = [by_itself(lm, tokenizer, prompt, text) for prompt, text in zip(prompts, question.candidates, strict=True)]
        assert row["tokens"] == [count for _, count in alone]
        assert row["scores"]["logp_sum"] == pytest.approx([total for total, _ in alone], abs=2e-3)
        assert row["scores"]["logp_mean"] == pytest.approx([total / count for total, count in alone], abs=1e-3)
        characters = [len(text.strip()) for text in question.candidates]
        assert row["scores"]["logp_characters"] == pytest.approx(
            [total / count for (total, _), count in zip(alone, characters, strict=True)], abs=1e-3
        )


def test_results_follow_from_the_questions(plain: Evaluated) -> None:
    run, results, rows = plain
    assert json.loads(run.results.read_text()) == {name: jsonable(value) for name, value in results.items()}
    for task in ("arc_easy", "boolq", "winogrande"):
        own = [row for row in rows if row["task"] == task]
        for name in LOGPS:
            hits = [row["scores"][name].index(max(row["scores"][name])) in row["correct"] for row in own]
            assert results[f"{task}/{name}/accuracy"] == pytest.approx(fmean(hits))
            expected = wilson(sum(hits), len(hits))
            assert (results[f"{task}/{name}/score_low"], results[f"{task}/{name}/score_high"]) == (expected.low, expected.high)
    schools = [results[f"race/{school}/logp_sum/accuracy"] for school in ("middle", "high")]
    assert results["race/logp_sum/score"] == pytest.approx((1436 * schools[0] + 3498 * schools[1]) / 4934)  # type: ignore[operator]
    assert results["arc_easy/questions"] == 9
    assert "gpt4all/logp_mean/average" not in results, "some of its tasks were not asked"
    assert {"seconds", "peak_memory_bytes", "fingerprint"} <= results.keys()


def test_what_is_left_says_what_was_measured(plain: Evaluated, bench: Path) -> None:
    run, results, _ = plain
    told = document(run)
    assert (told["evaluation"], told["model"], told["fingerprint"]) == ("gpt4all", "builtin:tiny", results["fingerprint"])
    assert list(told["tasks"]) == ["arc_easy", "boolq", "winogrande", "stsb", "race"]
    assert told["tasks"]["arc_easy"]["counts"] == {"rows": 9, "trimmed_prompts": 0}
    assert list(told["tasks"]["race"]["scorers"]["logp_mean"]["groups"]) == ["middle", "high"]
    assert list(told["tasks"]["stsb"]["scorers"]["logp_sum"]["measures"]) == ["pearson", "spearman"]
    assert list(told["tasks"]["boolq"]["minus_logp_mean"]) == ["logp_sum", "logp_characters"]
    config = yaml.safe_load(run.config.read_text())
    assert config["evaluation"]["path"] == str(bench)
    assert (config["evaluation"]["kind"], config["scorers"], config["against"], config["run_dir"]) == ("questions", [], None, str(run.path))
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "results.json", "evaluation.json", "questions.jsonl"}


def test_a_head_scores_candidates_as_it_does_elsewhere(trained: Evaluated, dph: RunDir, bench: Path) -> None:
    _, results, rows = trained
    aligned = load_aligned(dph.path)
    for row, question in zip(rows, questions(bench, rows), strict=True):
        said = aligned.score([str(question.prompt)] * len(question.texts), list(question.texts))
        assert row["scores"]["dph"] == pytest.approx([float(score) for score in said], abs=1e-4)
    assert 0.0 <= results["arc_easy/dph/accuracy"] <= 1.0  # type: ignore[operator]


def test_with_a_reference_the_implicit_reward_scores_too(trained: Evaluated, plain: Evaluated) -> None:
    _, _, rows = trained
    assert list(rows[0]["scores"]) == [*LOGPS, "dph", "implicit"]
    for row, before in zip(rows, plain[2], strict=True):
        ratios = [0.3 * (a - b) for a, b in zip(row["scores"]["logp_sum"], before["scores"]["logp_sum"], strict=True)]
        assert row["scores"]["implicit"] == pytest.approx(ratios, abs=1e-4)


def test_the_implicit_reward_by_itself_knows_what_the_run_began_from(evaluate: Evaluate, trained: Evaluated, dph: RunDir) -> None:
    _, results, rows = evaluate(f"model.path={dph.model}", "scorer=implicit", "evaluation.limit=3")
    known = {(row["task"], row["question"]): row["scores"]["implicit"] for row in trained[2]}
    assert len(rows) == 15
    for row in rows:
        assert row["scores"]["implicit"] == pytest.approx(known[row["task"], row["question"]], abs=1e-4)
    assert not [name for name in results if "logp" in name]
    _, _, doubled = evaluate(f"model.path={dph.path}", "scorer=[logp_sum,implicit]", "scorer.beta=0.6", "evaluation.limit=1")
    assert doubled[0]["scores"]["implicit"] == pytest.approx([2 * score for score in rows[0]["scores"]["implicit"]], abs=1e-4)


def test_a_model_against_itself_differs_by_nothing(evaluate: Evaluate, trained: Evaluated, dph: RunDir) -> None:
    run, results, _ = evaluate(f"model.path={dph.path}", "scorer=[dph,logp_sum]", f"against={trained[0].path}")
    differences = {name: value for name, value in results.items() if name.endswith("/minus_against")}
    assert len(differences) == 10
    assert {value for value in differences.values() if not math.isnan(value)} == {0.0}  # type: ignore[arg-type]
    for task in document(run)["tasks"].values():
        for other in task["against"].values():
            assert other["mcnemar"] == {"first_better": 0, "second_better": 0, "p_value": 1.0}
            assert set(other["measures"].keys()) & {"accuracy", "pearson"}


def test_another_model_differs_by_the_difference_of_its_scores(evaluate: Evaluate, trained: Evaluated, plain: Evaluated) -> None:
    run, results, _ = evaluate("scorer=logp_sum", f"against={trained[0].path}", "evaluation.tasks=[arc_easy,boolq]")
    for task in ("arc_easy", "boolq"):
        name = f"{task}/logp_sum/accuracy"
        assert results[f"{task}/logp_sum/minus_against"] == pytest.approx(results[name] - trained[1][name])  # type: ignore[operator]
        assert results[name] == plain[1][name]
    assert document(run)["tasks"]["boolq"]["against"]["logp_sum"]["questions"] == 8


def test_a_scorer_of_texts_scores_candidates(evaluate: Evaluate, bench: Path) -> None:
    _, results, rows = evaluate("scorer=vader")
    for row, question in zip(rows, questions(bench, rows), strict=True):
        assert row["scores"] == {"vader": pytest.approx([compound(text) for text in question.texts], abs=1e-6)}
    assert results["winogrande/vader/accuracy"] == 0.5, "names have no sentiment, and ties share the credit"


def test_a_head_of_another_run_scores_as_that_run_does(evaluate: Evaluate, trained: Evaluated, dph: RunDir) -> None:
    _, _, rows = evaluate("scorer=head", f"scorer.path={dph.path}", "evaluation.tasks=[arc_easy,winogrande,race]")
    known = {(row["task"], row["question"]): row["scores"]["dph"] for row in trained[2]}
    for row in rows:
        assert row["scores"]["head"] == pytest.approx(known[row["task"], row["question"]], abs=1e-4)


def test_truth_is_shared_among_right_answers_by_summed_log_probs_alone(
    evaluate: Evaluate, dph: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    _, results, rows = evaluate(f"model.path={dph.path}", "evaluation=truthfulqa", "evaluation.tasks=[truthfulqa_mc2]")
    shares = []
    for row in rows:
        masses = [math.exp(score) for score in row["scores"]["logp_sum"]]
        shares.append(sum(masses[:2]) / sum(masses))
    assert results["truthfulqa_mc2/logp_sum/mc2"] == pytest.approx(fmean(shares))
    assert math.isnan(results["truthfulqa_mc2/dph/mc2"])  # type: ignore[arg-type]
    line = next(line for line in capsys.readouterr().out.splitlines() if "mc2 " in line)
    assert line.split().count("undefined") == 3


@pytest.mark.parametrize("precision", ["bf16", "bf16_true"])
def test_bfloat16_scores_alike(evaluate: Evaluate, trained: Evaluated, dph: RunDir, precision: str) -> None:
    _, _, rows = evaluate(f"model.path={dph.path}", f"precision={precision}", "scorer=[dph,logp_mean]", "evaluation.limit=3")
    known = {(row["task"], row["question"]): row["scores"] for row in trained[2]}
    for row in rows:
        exact = known[row["task"], row["question"]]
        assert row["scores"]["logp_mean"] == pytest.approx(exact["logp_mean"], abs=0.3)
        assert row["scores"]["dph"] == pytest.approx(exact["dph"], abs=0.3)


def test_a_chat_run_is_asked_as_it_was_trained(evaluate: Evaluate, bench: Path, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "base")
    pairs = [{"prompt": [{"role": "user", "content": f"Film {n}?"}], "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    data = ("dataset=local", f"dataset.path={tmp_path / 'pairs.jsonl'}", "model=hf", f"model.path={tmp_path / 'base'}")
    (settings,) = precheck([*SHORT, *data, "loss=reward"])
    run = RunDir.create(tmp_path / "run")
    carry_out_training(settings, run)
    _, _, rows = evaluate(f"model.path={run.path}", "evaluation.limit=2", "evaluation.tasks=[arc_easy,winogrande]")
    lm, aligned = AutoModelForCausalLM.from_pretrained(run.model).eval(), load_aligned(run.path)
    for row, question in zip(rows, questions(bench, rows), strict=True):
        for place, text in enumerate(question.texts):
            before = f"<|bos|>user\n{question.prompt}<|end|>\n<|bos|>assistant\n"
            total, count = by_itself(lm, tokenizer, before, text.strip())
            assert row["tokens"][place] == count, "what is given is part of the answer"
            assert row["scores"]["logp_sum"][place] == pytest.approx(total, abs=2e-3)
        said = aligned.score([str(question.prompt)] * len(question.texts), list(question.texts))
        assert row["scores"]["reward"] == pytest.approx([float(score) for score in said], abs=1e-4)
    _, _, others = evaluate(f"model.path={run.path}", "evaluation.limit=2", "evaluation.tasks=[winogrande]", "dataset.format=text")
    assert others[0]["tokens"] != rows[2]["tokens"], "typed, the format is what it is typed as"


def test_a_model_without_a_limit_of_positions_reads_whole_prompts(
    evaluate: Evaluate,
    tmp_path: Path,
    lm_factory: Callable[..., PreTrainedModel],
    tokenizer_factory: Callable[..., PreTrainedTokenizerBase],
) -> None:
    lm, tokenizer = lm_factory("bloom").eval(), tokenizer_factory()
    lm.save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    long = " ".join(f"w{3 + n % 90}" for n in range(700))
    (tmp_path / "boolq.jsonl").write_text(json.dumps({"passage": long, "question": "w5", "answer": True}) + "\n")
    run, _, (row,) = evaluate(
        "model=hf", f"model.path={tmp_path / 'bloom'}", f"evaluation.path={tmp_path / 'boolq.jsonl'}", "evaluation.tasks=[boolq]"
    )
    assert document(run)["tasks"]["boolq"]["counts"]["trimmed_prompts"] == 0
    prompt = f"{long}\nQuestion: w5?\nAnswer:"
    for place, text in enumerate((" no", " yes")):
        total, count = by_itself(lm, tokenizer, prompt, text)
        assert row["tokens"][place] == count == 1
        assert row["scores"]["logp_sum"][place] == pytest.approx(total, abs=2e-3)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluation.tasks=[piqa]"], "no rows of piqa to evaluate; looked for a folder or file called piqa"),
        (["evaluation.tasks=[truthfulqa]", "against={plain}"], "holds none of these questions by these scorers"),
        (["scorer=vader", "against={plain}"], "it holds arc_easy, boolq, winogrande, stsb, race by logp_mean, logp_sum, logp_characters."),
    ],
)
def test_what_cannot_work_is_told_before_weights_are_loaded(
    evaluate: Evaluate, plain: Evaluated, monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: str
) -> None:
    monkeypatch.setattr("alignkit.evaluating.questions.load_backbone", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UserError) as caught:
        evaluate(*(override.format(plain=plain[0].path) for override in overrides))
    assert words in str(caught.value)


def test_a_reference_with_other_tokens_is_refused(
    evaluate: Evaluate,
    tmp_path: Path,
    lm_factory: Callable[..., PreTrainedModel],
    tokenizer_factory: Callable[..., PreTrainedTokenizerBase],
) -> None:
    lm_factory("llama").save_pretrained(tmp_path / "other")
    tokenizer_factory().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"^reference\.path = .*other': its tokenizer is another one than that of the model"):
        evaluate(f"reference.path={tmp_path / 'other'}")


def test_the_command_leaves_everything_and_tells_wandb(commands: Callable[..., int], bench: Path, tmp_path: Path) -> None:
    argv = ["evaluation=gpt4all", f"evaluation.path={bench}", "evaluation.tasks=[boolq,stsb]", "run_dir=out"]
    log, folder = tmp_path / "log.txt", tmp_path / "work"
    folder.mkdir()
    assert commands(*argv, command="alignkit.evaluate", log=log, folder=folder) == 0, log.read_text()
    printed = log.read_text().splitlines()
    assert printed[-1] == f"run: {folder / 'out'}"
    assert any(line.startswith("boolq: 8 questions in") for line in printed)
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert len(list((folder / "out" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["stsb/logp_sum/pearson"] is None, "W&B is told of numbers that are none, too"
    words = next(line for line in printed if line.split()[:1] == ["boolq"]).split()
    assert words[:4] == ["boolq", "accuracy", "8", f"{results['boolq/logp_mean/accuracy']:.3f}"]
    assert commands(*argv, "scorer=dph", command="alignkit.evaluate", log=log, folder=folder) == 2
    assert log.read_text().splitlines()[-1].startswith("scorer = 'dph'; must be one of logp_mean, ")
