"""The card of a model: what it says is what the run did, and its own code gives alignkit's scores."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerBase

from alignkit.command_line import precheck
from alignkit.loss_settings import HeadSettings
from alignkit.model_settings import AdapterSettings
from alignkit.models.adapters import adapter_layers, add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.card_code import EXAMPLES
from alignkit.models.card_sections import without_folders
from alignkit.models.export import PREDICTING, load_aligned, save_adapter, save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.model_card import model_card, read_facts, write_card
from alignkit.models.texts import Texts, save_texts
from alignkit.run_dir import RunDir, Scalar
from alignkit.scorers.normalization import Normalization
from alignkit.scorers.saved_heads import saved_head
from alignkit.settings import RunSettings

END = 1
"""`<|end|>` of `builtin:tiny`."""
INSTRUCTIONS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|bos|>[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' <|end|>' }}{% endif %}{% endfor %}"
)
"""A chat template that writes something before and after an answer."""
RESULTS: Mapping[str, Scalar] = {
    "formula": "con_dph: L = a | b",
    "start/val/loss": 1.33544,
    "val/loss": 0.25,
    "start/val/rewards/accuracies": 0.5,
    "val/rewards/accuracies": 0.75,
    "val/rewards/margins": math.nan,
    "certificate/expected_first_loss/dpo": 0.6931471805599453,
    "data/train": 1200,
    "data/validation": 30,
    "data/too_long": 7,
    "data/tie": 0,
    "steps": 300,
    "policy_fingerprint": "7009052edc3dc8bd",
    "reference_fingerprint": None,
}
Saved = Callable[..., RunDir]


@pytest.fixture(scope="module")
def settings() -> RunSettings:
    (checked,) = precheck(["loss=con_dph", "steps=300"])
    return checked


@pytest.fixture
def saved(tmp_path: Path, settings: RunSettings) -> Saved:
    """A run directory with `builtin:tiny`, heads of these settings whose every weight is random, and a card."""

    def save(
        *heads: dict[str, Any],
        kind: str = "text",
        template: str | None = None,
        adapted: bool = False,
        reads: str | None = None,
        **changes: Any,
    ) -> RunDir:
        run = RunDir(tmp_path / "run")
        run.path.mkdir()
        tokenizer = with_template(template)
        backbone = Backbone(load_lm("model.path", locate("model.path", "builtin:tiny"), torch.float32))
        if adapted:
            adapt(backbone)
        (save_adapter if adapted else save_model)(run.model, backbone, tokenizer)
        if heads:
            save_heads(run, random_heads(backbone.hidden_width, *heads), terminator=END, tokenizer=tokenizer, reads=reads)
        save_texts(run.texts, Texts(kind=kind, terminator_id=END))
        write_card(run, replace(settings, **changes), tokenizer, RESULTS)
        return run

    return save


def with_template(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer("model.path", locate("model.path", "builtin:tiny"))
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def adapt(backbone: Backbone) -> None:
    """Adapters that change the model."""
    add_adapters(backbone, AdapterSettings(rank=4, alpha=8.0, dropout=0.0, targets=None, export="adapter"))
    with torch.no_grad():
        for layer in adapter_layers(backbone.lm).values():
            layer.lora_B["default"].weight.normal_(std=0.05)


def random_heads(width: int, *heads: dict[str, Any]) -> Heads:
    torch.manual_seed(0)
    built = Heads(width, {head["name"]: HeadSettings(**{"pooler": "identity", "dropout": 0.1, "init_std": None, **head}) for head in heads})
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for name in built:
        if built.head(name).settings.standardize:
            built.head(name).measure(1.0 + 2.0 * torch.randn(8, len(built.head(name).settings.layers), width))
    return built.eval()


def code_blocks(run: RunDir) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", run.card.read_text(encoding="utf-8"), re.DOTALL)


def scores_said(output: str) -> dict[str, float]:
    return {name: float(score) for name, score in (line.split() for line in output.splitlines())}


def scores_by_card(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the card's last block of code prints, run in this process, where the card is."""
    monkeypatch.chdir(run.model)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code_blocks(run)[-1], {})
    return scores_said(output.getvalue())


def scores_by_alignkit(run: RunDir, kind: str = "text") -> dict[str, float]:
    aligned, (prompt, completion) = load_aligned(run.path), EXAMPLES[kind]
    return {name: float(aligned.score([prompt], [completion], head=name)) for name in aligned.heads}


def test_ten_lines_without_alignkit_give_the_scores_of_a_preference_head(saved: Saved) -> None:
    run = saved({"name": "dph"})
    code = code_blocks(run)[-1]
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    assert "alignkit" not in code
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    checked = f"{code}\nimport sys\nassert not [name for name in sys.modules if name.startswith(('alignkit', 'lightning', 'peft'))]"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", checked], cwd=run.model, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert scores_said(done.stdout) == pytest.approx(scores_by_alignkit(run), abs=1e-5)


@pytest.mark.parametrize(
    "heads",
    [
        *([{"name": "h", "pooler": pooler}] for pooler in HeadSettings.POOLERS if pooler != "identity"),
        [{"name": "h", "layers": [2]}],
        [{"name": "h", "layers": [0, 3, -1], "pooler": "bert"}],
        [{"name": "h", "tokens": "attention"}],
        [{"name": "h", "standardize": 8}],
        [{"name": "h", "standardize": 8, "layers": [1], "tokens": "attention"}],
        [{"name": "first", "standardize": 8, "layers": [1, -1], "pooler": "bert"}, {"name": "second"}],
        [{"name": "first", "layers": [1, -1], "tokens": "attention", "pooler": "swiglu_t5"}, {"name": "second"}],
    ],
    ids=lambda heads: "+".join("-".join(str(value) for key, value in head.items() if key != "name") or "identity" for head in heads),
)
def test_the_code_of_the_card_gives_the_scores_of_every_kind_of_head(
    heads: list[dict[str, Any]], saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved(*heads)
    assert scores_by_card(run, monkeypatch) == pytest.approx(scores_by_alignkit(run), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("kind", "template"), [("chat", INSTRUCTIONS), ("dialogue", None), ("text", INSTRUCTIONS)])
def test_the_code_writes_texts_as_the_run_did(
    kind: str, template: str | None, saved: Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved({"name": "h", "tokens": "attention"}, kind=kind, template=template)
    assert scores_by_card(run, monkeypatch) == pytest.approx(scores_by_alignkit(run, kind), rel=1e-4, abs=1e-5)
    assert ("apply_chat_template" in code_blocks(run)[-1]) == (kind == "chat")
    exec(code_blocks(run)[0], {})
    assert capsys.readouterr().out.strip()


def test_an_adapter_has_a_card_whose_code_loads_it_onto_its_base_model(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = precheck(["loss=con_dph", "model.adapter=lora", "model.lora.export=adapter"])
    run = saved({"name": "dph"}, adapted=True, model=settings.model)
    assert scores_by_card(run, monkeypatch) == pytest.approx(scores_by_alignkit(run), rel=1e-4, abs=1e-5)
    card = ModelCard.load(run.card)
    assert card.data.library_name == "peft"
    assert "lora" in card.data.tags
    assert "rank: 16" in card.content
    assert "Needs transformers and peft" in card.content


def test_a_value_head_is_named_and_given_no_code_that_would_score_completions(saved: Saved) -> None:
    run = saved({"name": "value"}, reads=PREDICTING)
    assert f"`value`: {PREDICTING}" in run.card.read_text()
    assert len(code_blocks(run)) == 1


def test_the_scale_of_a_normalised_head_is_said(saved: Saved, settings: RunSettings) -> None:
    run = saved({"name": "dph"})
    saved_head(run.path, "dph").store_normalization(Normalization(gain=0.5, bias=-1.25))
    assert "0.5 * score -1.25 has mean 0" in str(model_card(read_facts(run, settings, with_template(None), RESULTS)))


def test_the_metadata_are_what_the_hub_reads(saved: Saved) -> None:
    data = ModelCard.load(saved({"name": "dph"}).card).data
    assert (data.license, data.pipeline_tag, data.library_name) == ("unknown", "text-generation", "transformers")
    assert data.tags == ["alignkit", "con_dph"]
    assert data.metrics == ["loss", "rewards/accuracies"]
    assert [(result.metric_type, result.metric_value, result.dataset_name) for result in data.eval_results] == [
        ("loss", 0.25, "reviews"),
        ("rewards/accuracies", 0.75, "reviews"),
    ]
    # Neither of them is on the hub, where they would be looked for.
    assert data.base_model is None
    assert data.datasets is None


def test_a_base_model_and_data_of_the_hub_are_named_in_the_metadata(saved: Saved, settings: RunSettings) -> None:
    model, dataset = replace(settings.model, path="openai/gpt2"), replace(settings.dataset, hub="some/set", split="train")
    data = ModelCard.load(saved(model=model, dataset=dataset).card).data
    assert (data.base_model, data.base_model_relation, data.datasets) == ("openai/gpt2", "finetune", ["some/set"])


def test_data_objective_results_and_certificate_are_told(saved: Saved) -> None:
    text = saved({"name": "dph"}).card.read_text()
    for line in (
        "- 1,200 examples to train on",
        "- 30 examples held out",
        "- 7 left out: more tokens than dataset.max_length",
        "con_dph: L = a | b",
        "  epsilon: 0.1",
        "steps: 300",
        "Held-out examples, before the first step and after step 300.",
        "| val/loss | 1.335 | 0.25 | lower | the objective, mean over pairs (sft: over completion tokens) (nats) |",
        "| val/rewards/margins |  |  | higher |",
        "| expected_first_loss/dpo | 0.6931 |",
        "- weights before the first step: `7009052edc3dc8bd`",
        f"- torch {torch.__version__}",
    ):
        assert line in text
    assert "rated equal" not in text
    assert "weights of the reference" not in text


def test_a_run_that_was_stopped_says_so(saved: Saved, settings: RunSettings) -> None:
    run = saved({"name": "dph"})
    facts = read_facts(run, settings, with_template(None), {**RESULTS, "steps": 20})
    assert "after step 20. The run was stopped before the last of its 300 steps." in str(model_card(facts))
    assert "## Results" not in str(model_card(replace(facts, results={})))


def test_no_path_of_this_machine_stands_in_a_card(saved: Saved, settings: RunSettings, tmp_path: Path) -> None:
    reward = tmp_path / "rewards" / "first"
    reward.mkdir(parents=True)
    run = saved(
        model=replace(settings.model, path=str(tmp_path / "secret" / "sft" / "model")),
        dataset=replace(settings.dataset, source="local", path=str(tmp_path / "pairs.jsonl")),
        scorer=replace(settings.scorer, name="head", options={"path": str(reward), "head": None}),
        reference=replace(settings.reference, path="./refs/old"),
    )
    text = run.card.read_text()
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "refs" not in text
    for name in ("`sft`, trained with con_dph", "`pairs.jsonl`", "path: first", "path: old"):
        assert name in text


@pytest.mark.parametrize(
    ("path", "name"),
    [("openai/gpt2", "openai/gpt2"), ("gpt2", "gpt2"), ("/a/b/gpt2", "gpt2"), ("~/runs/sft/model", "sft"), ("./x", "x")],
)
def test_a_path_is_told_from_a_name_of_the_hub(path: str, name: str) -> None:
    assert without_folders(path) == name
