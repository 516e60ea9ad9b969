"""The text of `evaluation.text`, as both models read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from transformers import PreTrainedTokenizerBase

from alignkit.data.dropping import REASONS
from alignkit.data.encoding import TOGETHER, Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError
from alignkit.evaluation.perplexity import HeldOutText
from alignkit.generation.prompt_reading import read_texts

SETTING: Final = "evaluation.text"
COLUMN = "text"
UNBOUNDED = 2**30


def read_held_out_text(path: str, tokenizer: PreTrainedTokenizerBase) -> list[HeldOutText]:
    """The texts of a file: one a line, or those of a column `text` (JSONL, JSON, CSV, Parquet). Plain text, without any template.

    A text of a single token predicts nothing and is left out.

    Raises:
        UserError: when a row holds no text, or one that the tokenizer would turn into control tokens, or when there is none at all.
    """
    encoder = Encoder(tokenizer, format="text", max_length=UNBOUNDED, overflow="trim")
    texts = [text for text in _texts(path, encoder) if len(text.ids) > 1]
    if not texts:
        raise UserError(f"{SETTING} = {path}: holds no text of two tokens or more. Choose another file.")
    return texts


def _texts(path: str, encoder: Encoder) -> Iterator[HeldOutText]:
    read = list(read_texts(path, SETTING, COLUMN))
    for start in range(0, len(read), TOGETHER):
        some = read[start : start + TOGETHER]
        # An empty completion: the prompt's own ids are all that there is, the beginning-of-text token before them.
        examples = {place: PreferenceExample(prompt=one.example.prompt, completions=("",)) for place, one in enumerate(some)}
        outcomes = encoder.outcomes(examples)
        for one, outcome in zip(some, outcomes, strict=True):
            written = one.example.prompt
            if not isinstance(written, str):
                raise UserError(f"{one.place}: {COLUMN!r} holds chat messages; must be text.")
            if outcome.reason == "empty_prompt":  # nothing is left of white space by some tokenizers
                continue
            if outcome.example is None:
                raise UserError(f"{one.place}: {REASONS[outcome.reason]}. Change or remove it.")
            ids = outcome.example.prompt_ids
            first = encoder.tokenizer.decode(list(ids[:1]), skip_special_tokens=True)
            yield HeldOutText(ids=ids, bytes=max(1, len(written.encode()) - len(str(first).encode())))
