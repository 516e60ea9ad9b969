"""`evaluation=cost` from settings to its files, with the model that ships with alignkit, and what is refused before weights are loaded."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.command_line import precheck
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.evaluating.cost import evaluate
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluation.cost_measures import COSTS, cost_measure
from alignkit.evaluation_settings import CostSettings, EvaluateSettings
from alignkit.models.location import locate
from alignkit.resolution import to_record
from alignkit.run_dir import RunDir

TINY = ["dataset.pairs=24", "dataset.validation_examples=6", "rollout.samples=2", "rollout.max_tokens=12", "batch.pairs=4"]
TEXTS = "The film is good.\nThe script of the film is never clever, and the story has no end.\nIt is about two brothers.\n"
QUESTIONS = [
    {"Question": "Do pigs fly?", "Best Answer": "No", "Correct Answers": "No; They do not", "Incorrect Answers": "Yes; At night"},
    {"Question": "Is it good?", "Best Answer": "It is", "Correct Answers": "It is", "Incorrect Answers": "It is not; Never; No"},
]
Asked = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of everything that is asked, and a copy of the model with other weights."""
    made = tmp_path_factory.mktemp("cost")
    (made / "texts.txt").write_text(TEXTS)
    (made / "words.txt").write_text("film\nnot good\n")
    (made / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    path = locate("model.path", "builtin:tiny")
    lm = AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.3 * parameter.std() * torch.randn_like(parameter))
    lm.save_pretrained(made / "moved")
    AutoTokenizer.from_pretrained(path).save_pretrained(made / "moved")
    return made


def settings_of(**changes: object) -> CostSettings:
    """What the file says, and what was typed."""
    values = yaml.safe_load((conf_dir() / "evaluation" / "cost.yaml").read_text(encoding="utf-8"))
    assert values.pop("kind") == "cost"
    return to_record(CostSettings, {**values, **changes}, "evaluation")


def ask(run: Path, *typed: str, **changes: object) -> Outcome:
    (settings,) = precheck([*TINY, *typed])
    run.mkdir(exist_ok=True)
    own = EvaluateSettings(evaluation=settings_of(**changes), scorers=(), against=None)
    return evaluate(settings, own, RunDir(run))


def everything(folder: Path) -> dict[str, object]:
    return {
        "text": str(folder / "texts.txt"),
        "misconceptions": str(folder / "questions.jsonl"),
        "toxicity": "lexicon",
        "toxicity_options": {"path": str(folder / "words.txt")},
    }


@pytest.fixture(scope="module")
def unmoved(folder: Path) -> tuple[Outcome, Path]:
    return ask(folder / "unmoved", "reference.path=builtin:tiny", **everything(folder)), folder / "unmoved"


@pytest.fixture(scope="module")
def moved(folder: Path) -> tuple[Outcome, Path]:
    outcome = ask(
        folder / "run", "reference.path=builtin:tiny", f"model.path={folder / 'moved'}", "batch.layout=rows", **everything(folder)
    )
    return outcome, folder / "run"


def test_a_model_against_itself_costs_nothing_to_the_bit(unmoved: tuple[Outcome, Path]) -> None:
    results = unmoved[0].results
    zeros = {name: value for name, value in results.items() if name.startswith(("kl/", "text/reference_kl")) or "/change" in name}
    assert {"kl/k1", "kl/k3_standard_error", "text/perplexity/change", "misconceptions/misled/change_low"} <= set(zeros)
    unknown = {name for name, value in zeros.items() if isinstance(value, float) and math.isnan(value)}
    # Six prompts are one group of ten, which has no error.
    assert unknown == {"samples/self_bleu_across/change_low", "samples/self_bleu_across/change_high"}
    assert {value for name, value in zeros.items() if name not in unknown} == {0.0}
    assert results["fingerprint"] == results["reference_fingerprint"]


def test_samples_of_both_are_kept_side_by_side(unmoved: tuple[Outcome, Path], moved: tuple[Outcome, Path]) -> None:
    for (_, run), same in ((unmoved, True), (moved, False)):
        rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        assert len(rows) == 6
        assert all(set(row) == {"prompt", "model", "reference"} for row in rows)
        assert all(len(row["model"]) == len(row["reference"]) == 2 for row in rows)
        assert all(row["model"] == row["reference"] for row in rows) == same


def test_other_weights_move_every_kind_of_number(moved: tuple[Outcome, Path]) -> None:
    results = moved[0].results
    for name in ("kl/k3", "kl/exact", "kl/exact_per_token", "text/reference_kl", "text/nll/change", "text/perplexity/change"):
        assert float(results[name]) > 0, name  # noise in the weights of a trained model makes it worse
    assert float(results["kl/k1_low"]) < float(results["kl/exact"]) < float(results["kl/k1_high"])
    for name in ("samples/entropy", "samples/distinct_1", "samples/distinct_2", "misconceptions/false_logps", "toxicity/lexicon"):
        assert results[f"{name}/change"] == pytest.approx(float(results[f"{name}/after"]) - float(results[f"{name}/before"]))
        assert results[f"{name}/change"] != 0, name
    assert results["fingerprint"] != results["reference_fingerprint"]
    assert results["text_tokens"] == sum(
        len(AutoTokenizer.from_pretrained(locate("", "builtin:tiny"))(line)["input_ids"]) - 1 for line in TEXTS.splitlines()
    )


def test_before_is_the_reference_whoever_is_measured(unmoved: tuple[Outcome, Path], moved: tuple[Outcome, Path]) -> None:
    theirs = {name: value for name, value in unmoved[0].results.items() if name.endswith("/before")}
    # Packed in one run, in rows in the other: alike to the rounding of differently cut batches.
    assert {name: moved[0].results[name] for name in theirs} == pytest.approx(theirs, rel=1e-4)


def test_the_lexicon_is_read_from_the_samples(moved: tuple[Outcome, Path]) -> None:
    rows = [json.loads(line) for line in (moved[1] / "samples.jsonl").read_text().splitlines()]
    shares = [sum(word == "film" for word in words(text)) / len(words(text)) for row in rows for text in row["reference"]]
    assert moved[0].results["toxicity/lexicon/before"] == pytest.approx(-sum(shares) / len(shares))


def words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower()).split()


def test_everything_is_said_three_times(moved: tuple[Outcome, Path]) -> None:
    outcome = moved[0]
    document = json.loads(json.dumps(outcome.document, allow_nan=False))
    names = {*document["divergences"], *document["changes"]}
    assert names == {*COSTS, "toxicity/lexicon"}
    for name, one in document["divergences"].items():
        assert (one["value"], one["standard_error"]) == (outcome.results[name], outcome.results[f"{name}_standard_error"])
        assert one["meaning"] == cost_measure(name).meaning
    for name, one in document["changes"].items():
        assert one["change"]["value"] == outcome.results[f"{name}/change"]
        assert one["better"] in ("higher", "lower", "neither")
    told = [str(cell) for cell in outcome.table.columns[0].cells]
    assert "KL(model | reference) per token, by k3, nats" in told
    assert "score by lexicon, higher is less toxic" in told
    assert "prompts" in told
    assert "fingerprint" not in told


def test_only_what_is_asked_is_measured(folder: Path) -> None:
    outcome = ask(folder / "bare", "reference.path=builtin:tiny", "rollout.samples=1", limit=3)
    assert (outcome.results["prompts"], outcome.results["samples"]) == (3, 3)
    groups = {name.partition("/")[0] for name in outcome.results if "/" in name}
    assert groups == {"kl", "samples"}
    assert not any(name.startswith("samples/self_bleu/") for name in outcome.results)


@pytest.mark.parametrize(
    ("typed", "changes", "message"),
    [
        ([], {}, "reference.path is missing.* Type reference.path=DIR"),
        (["rollout.top_p=0.9"], {}, "rollout.top_k and rollout.top_p .* Type top_k=0 top_p=1"),
        (["rollout.top_k=5"], {}, "Type top_k=0 top_p=1"),
        ([], {"prompts": "chat"}, "evaluation.prompts = 'chat'"),
        (["reference.path=builtin:tiny"], {"prompts": "nowhere.jsonl"}, "prompts = nowhere.jsonl: no such file"),
        (
            ["reference.path=builtin:tiny"],
            {"toxicity": "lexico"},
            "evaluation.toxicity = 'lexico'; must be one of .* Did you mean 'lexicon'",
        ),
        (["reference.path=builtin:tiny"], {"toxicity": "lexicon"}, "evaluation.toxicity_options.path is missing"),
        (
            ["reference.path=builtin:tiny"],
            {"toxicity": "lexicon", "toxicity_options": {"path": "nowhere"}},
            "evaluation.toxicity_options: scorer.path = 'nowhere': cannot be read",
        ),
        (["reference.path=builtin:tiny"], {"text": "TEXTS", "window": 513}, "evaluation.window = 513: the models have positions for 512"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], changes: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("alignkit.evaluating.cost.load_both", lambda *_: pytest.fail("weights were loaded"))
    if changes.get("text") == "TEXTS":
        changes = {**changes, "text": str(folder / "texts.txt")}
    with pytest.raises(UserError, match=message):
        ask(folder / "refused", *typed, **changes)


def test_rows_of_questions_are_named_by_their_line(folder: Path) -> None:
    file = folder / "broken.jsonl"
    file.write_text(json.dumps(QUESTIONS[0]) + "\n" + json.dumps({**QUESTIONS[1], "Correct Answers": None}) + "\n")
    with pytest.raises(UserError, match=r"^evaluation.misconceptions = .*broken.jsonl, line 2: 'Correct Answers' is null"):
        ask(folder / "refused", "reference.path=builtin:tiny", misconceptions=str(file))
    file.write_text(json.dumps({"Question": "a", "Best Answer": "b"}) + "\n")
    with pytest.raises(UserError, match=r"lacks the column Correct Answers, Incorrect Answers"):
        ask(folder / "refused", "reference.path=builtin:tiny", misconceptions=str(file))


def test_a_reference_with_other_tokens_is_refused(folder: Path, lm_factory, tokenizer_factory) -> None:
    lm_factory("llama").save_pretrained(folder / "other")
    tokenizer_factory().save_pretrained(folder / "other")
    with pytest.raises(UserError, match=r"reads texts as other tokens than the model"):
        ask(folder / "refused", f"reference.path={folder / 'other'}")


def test_options_of_a_scorer_that_nobody_chose_are_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation.toxicity_options = .* has no effect"):
        settings_of(toxicity_options={"path": "words.txt"})
    with pytest.raises(UserError, match=r"evaluation.window = 1"):
        settings_of(window=1)
    assert dataclasses.asdict(settings_of())["limit"] == 256


@pytest.mark.real
def test_a_model_that_tells_stories_knows_them_better_than_itself_with_noise(shared: Path, tmp_path: Path) -> None:
    stories = shared / "models/stories260k"
    lm = AutoModelForCausalLM.from_pretrained(stories)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    lm.save_pretrained(tmp_path / "noisy")
    AutoTokenizer.from_pretrained(stories).save_pretrained(tmp_path / "noisy")
    (tmp_path / "prompts.txt").write_text("Once upon a time\nOne day\nLily saw\nTim and his mom\n")
    for name, source, count in (("stories", "tinystories_sample/train", 8), ("questions", "truthfulqa/generation", 40)):
        with gzip.open(shared / f"data/{source}.jsonl.gz", "rt", encoding="utf-8") as lines:
            (tmp_path / f"{name}.jsonl").write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
    outcome = ask(
        tmp_path / "run",
        "model=hf",
        f"model.path={tmp_path / 'noisy'}",
        f"reference.path={stories}",
        "rollout.max_tokens=24",
        prompts=str(tmp_path / "prompts.txt"),
        text=str(tmp_path / "stories.jsonl"),
        misconceptions=str(tmp_path / "questions.jsonl"),
    )
    results = outcome.results
    assert results["questions"] == 40
    # A trained model of 512 tokens: far below a uniform guess, and noise makes it worse beyond doubt.
    assert 1 < float(results["text/perplexity/before"]) < 8
    assert float(results["text/nll/change_low"]) > 0
    assert float(results["text/reference_kl_low"]) > 0
    assert 0 < float(results["misconceptions/misled/before"]) < 1
    assert float(results["kl/k3"]) > 0
