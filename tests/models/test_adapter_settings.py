"""Adapter options that would do nothing, lose something or cannot be are refused in one message."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import yaml

from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.model_settings import UNUSED_LORA, AdapterSettings, ModelSettings


def model_settings(**changes: object) -> ModelSettings:
    plain = {"name": "m", "path": "p", "train": "all", "attention": "auto", "checkpointing": "auto", "compile": False}
    return ModelSettings(**{**plain, "frozen_layers": 0, "adapter": None, "lora": UNUSED_LORA, "quantize": None, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, r"^model\.lora\.rank = 0; must be a number in \[1"),
        ({"alpha": 0.0}, r"^model\.lora\.alpha = 0\.0; must be a number in \(0"),
        ({"dropout": 1.0}, r"^model\.lora\.dropout = 1\.0; must be a number in \[0, 1\)"),
        ({"dropout": float("nan")}, r"^model\.lora\.dropout = nan"),
        ({"targets": []}, r"would adapt nothing\. Type model\.lora\.targets=null"),
        ({"targets": ["q_proj", ""]}, r"must be names of layers"),
        ({"export": "merge"}, r"^model\.lora\.export = 'merge'; must be one of merged, adapter"),
    ],
)
def test_an_adapter_setting_out_of_range_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        replace(UNUSED_LORA, **changes)


@pytest.mark.parametrize("changes", [{"rank": 8}, {"alpha": 16.0}, {"dropout": 0.1}, {"targets": ["q_proj"]}, {"export": "adapter"}])
def test_an_adapter_setting_without_adapters_is_refused(changes):
    lora = replace(UNUSED_LORA, **changes)
    assert model_settings(adapter="lora", lora=lora).lora == lora
    (name,) = changes
    with pytest.raises(UserError, match=rf"^model\.lora\.{name} = .* has no effect while model\.adapter = null\. Type model\.adapter=lora"):
        model_settings(lora=lora)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": "qlora"}, r"^model\.adapter = 'qlora'; must be one of null, lora\. Did you mean 'lora'"),
        ({"quantize": "int8", "adapter": "lora"}, r"^model\.quantize = 'int8'; must be one of null, nf4"),
        ({"adapter": "lora", "train": "heads"}, r"model\.train = 'heads' with model\.adapter = 'lora'.*Type model\.train=all"),
        ({"quantize": "nf4"}, r"^model\.quantize = 'nf4'.*Type model\.adapter=lora"),
        ({"quantize": "nf4", "adapter": "lora"}, r"model\.lora\.export = 'merged' with model\.quantize = 'nf4'.*export=adapter"),
    ],
)
def test_models_that_would_train_nothing_or_lose_what_they_trained_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        model_settings(**changes)


def test_every_model_file_has_the_adapters_that_are_not_in_use():
    for file in sorted((conf_dir() / "model").glob("*.yaml")):
        own = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert own["lora"] == {field.name: getattr(UNUSED_LORA, field.name) for field in fields(AdapterSettings)}
        assert own["adapter"] is None
        assert own["quantize"] is None


@pytest.mark.parametrize("changes", [{"train": "heads"}, {"train": "embeddings"}, {"adapter": "lora"}])
def test_frozen_layers_are_refused_where_no_layer_is_trained(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"^model\.frozen_layers = 2 has no effect"):
        model_settings(frozen_layers=2, **changes)
