"""What makes cached values of a reference stale has another key, and what does not has the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from alignkit.caches.digests import example_digest, function_digest, numeric_mode
from alignkit.caches.store import FORMAT
from alignkit.data.encoding import Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.data.sources.local import Local
from alignkit.models.backbone import Backbone
from alignkit.models.reference import fingerprint

ROW = {"prompt": "a longer question, about abba", "chosen": " yes, it is", "rejected": " no, ab", "other": " perhaps not"}
WORDS = "abcdefghijklmnopqrstuvwxyz ,."
Key = tuple[bytes | str, ...]
"""The folder, and the digest in it."""


def tokenizer_of(*, bos: bool = False, template: str | None = None, merge: bool = True) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, processors

    vocabulary = {character: number for number, character in enumerate(WORDS)} | {"ab": len(WORDS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")] if merge else []))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if bos:
        start = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False, chat_template=template
    )


TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"


@pytest.fixture
def key(lm_factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Key]:
    """Where the values of one row are kept, after changes of what a user may change."""

    def of(*, columns: dict[str, str] | None = None, row: dict[str, str] = ROW, **changes: Any) -> Key:
        (example,) = Local(columns=columns or {}, ratings=[]).to_examples(row)
        assert isinstance(example, PreferenceExample)
        tokenizer = tokenizer_of(**{name: changes.pop(name) for name in ("bos", "template", "merge") if name in changes})
        encoder = Encoder(tokenizer, format=changes.pop("format", "text"), max_length=changes.pop("max_length", 64), overflow="trim")
        encoded = encoder.encode(changes.pop("place", 0), example)
        assert encoded is not None
        lm = lm_factory("llama", dtype=changes.pop("dtype", torch.float32))
        with torch.no_grad():
            lm.lm_head.weight[0, 0] += changes.pop("training", 0.0)
        lm.set_attn_implementation(changes.pop("attention", "sdpa"))
        backbone = Backbone(lm)
        mode = numeric_mode(changes.pop("precision", "32-true"), torch.device("cpu"))
        version = changes.pop("version", FORMAT)
        assert not changes
        return function_digest(backbone, fingerprint(backbone)), mode, version, example_digest(encoded)

    return of


CHANGES: dict[str, dict[str, Any]] = {
    "max_length": {"max_length": 30},
    "format": {"template": TEMPLATE, "format": "chat"},
    "chat template": {"template": TEMPLATE.replace("assistant ", "answer "), "format": "chat"},
    "files of the tokenizer": {"merge": False},
    "a token that begins a text": {"bos": True},
    "columns": {"columns": {"rejected": "other"}},
    "weights": {"training": 1e-3},
    "type of the weights": {"dtype": torch.bfloat16},
    "attention": {"attention": "eager"},
    "precision": {"precision": "bf16-mixed"},
    "version of what alignkit computes": {"version": "another"},
    "text": {"row": {**ROW, "chosen": " yes, it was"}},
}


def test_everything_that_changes_a_value_changes_its_key(key: Callable[..., Key]) -> None:
    keys = {"nothing": key(), **{name: key(**change) for name, change in CHANGES.items()}}
    same = [(one, other) for one in keys for other in keys if one < other and keys[one] == keys[other]]
    assert same == []


def test_what_changes_no_value_changes_no_key(key: Callable[..., Key]) -> None:
    assert key(place=7) == key(), "another place in the data"
    assert key(max_length=63) == key(), "a limit that nothing reaches"
    assert key(row={**ROW, "other": " whatever"}) == key(), "a column that is not read"
