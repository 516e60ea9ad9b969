"""A tokenizer whose results can be computed by hand."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|file|>"]


def build_characters(
    *, bos: bool = False, end: str | None = "</s>", pad: str = "<pad>", template: str | None = None, first: str = "<s>"
) -> PreTrainedTokenizerFast:
    """One token a printable character, the merge `ab`, and control tokens; `bos` puts `first` before each text."""
    vocabulary = {character: number for number, character in enumerate(string.printable)}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "ab": len(vocabulary)}, merges=[("a", "b")]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    roles = {"bos_token": first, "pad_token": pad} | ({} if end is None else {"eos_token": end})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, chat_template=template, **roles)


@pytest.fixture(scope="session")
def characters() -> Callable[..., PreTrainedTokenizerFast]:
    return build_characters
