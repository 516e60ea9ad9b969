"""Answers as a model of its own reads them: in its tokens, cut into batches, scored in their order.

E prompts   C completions
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignkit.batches import PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.scorers.scorer import Answers

PROBE = "Aa bé\t 12,345\n\n«ß» don't <x>\u00a0🙂 end."
"""A text on which tokenizers with one vocabulary and different rules (case, white space, bytes) disagree."""
UNBOUNDED = 2**30
"""Positions of a model that has no limit."""


@final
class AnswerTokens:
    """Answers in the token ids of a model.

    Ids are taken over where its tokenizer is the one that `Answers` were written with. Else the texts are encoded anew, as plain
    text; control tokens spelt out in them, which would turn into the real ones, are left out. A completion that ended in its writer's
    terminator ends in the model's; one that was cut has none. Texts that are too long for the model lose their oldest tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, written_with: PreTrainedTokenizerBase, *, terminator: int | None, positions: int | None
    ) -> None:
        """`terminator`: the token that ended completions when the model was trained; None where that is not known: the writer's where
        ids are taken over, else the end-of-text token. `positions`: of the model; None where it has no limit."""
        self._terminator = terminator
        self._positions = positions or UNBOUNDED
        self._encoder = (
            None if same_tokens(tokenizer, written_with) else Encoder(tokenizer, format="text", max_length=self._positions, overflow="trim")
        )
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | set(tokenizer.all_special_tokens)
        self._special = re.compile("|".join(map(re.escape, sorted(filter(None, special), key=len, reverse=True))) or "(?!)")

    def __call__(self, answers: Answers) -> list[EncodedExample]:
        """Prompts with completions, in the order of the answers; keys are places in the list.

        Raises:
            UserError: on an answer that cannot be encoded, or has more tokens than the model has positions.
        """
        examples = list(answers.examples) if self._encoder is None else self._encoded(answers, self._encoder)
        longest = max((len(example.prompt_ids) + max(map(len, example.completion_ids)) for example in examples), default=0)
        if longest > self._positions:
            raise UserError(
                f"scorer: an answer has {longest} tokens with its prompt, and the scorer's model has positions for {self._positions}. "
                "Type less for dataset.max_length or rollout.max_tokens."
            )
        finished = iter(answers.finished.tolist())
        return [
            dataclasses.replace(
                example, key=place, completion_ids=tuple(self._ended(ids, next(finished)) for ids in example.completion_ids)
            )
            for place, example in enumerate(examples)
        ]

    def _ended(self, ids: tuple[int, ...], finished: bool) -> tuple[int, ...]:
        if finished:
            return ids if self._terminator is None else (*ids[:-1], self._terminator)
        # The encoder ends whatever it is given; a completion of nothing else keeps that one token.
        return ids[:-1] if self._encoder is not None and len(ids) > 1 else ids

    def _encoded(self, answers: Answers, encoder: Encoder) -> list[EncodedExample]:
        """Each completion by itself, because an encoder refuses equal ones of one prompt; neighbours share their prompt again."""
        pairs = zip(answers.prompt_of_each, answers.completions, strict=True)
        texts = {
            place: PreferenceExample(prompt=self._special.sub("", prompt), completions=(self._special.sub("", completion),))
            for place, (prompt, completion) in enumerate(pairs)
        }
        encoded = encoder.encode_all(texts)
        if lost := texts.keys() - {example.key for example in encoded}:
            text = texts[min(lost)]
            reasons = ", ".join(encoder.report.dropped)
            raise UserError(f"scorer: cannot read {text.completions[0]!r} as an answer to {text.prompt!r} ({reasons}).")
        joined: list[EncodedExample] = []
        last_prompt = -1
        for example in encoded:
            prompt = answers.example_index[example.key]
            if joined and prompt == last_prompt and joined[-1].prompt_ids == example.prompt_ids:
                joined[-1] = dataclasses.replace(joined[-1], completion_ids=joined[-1].completion_ids + example.completion_ids)
            else:
                joined.append(example)
            last_prompt = prompt
        return joined


def same_tokens(left: PreTrainedTokenizerBase, right: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers turn texts into the same ids: by their vocabularies, their control tokens, and what they make of a probe."""
    return (
        left.get_vocab() == right.get_vocab()
        and left.special_tokens_map == right.special_tokens_map
        and left(PROBE)["input_ids"] == right(PROBE)["input_ids"]
    )


def score_batches(
    examples: Sequence[EncodedExample], packing: Packing, device: torch.device, score: Callable[[PackedBatch], Tensor]
) -> Tensor:
    """[C] float32 on the CPU, in the order of the examples' completions: what `score` says of each batch, [c]."""
    by_example: dict[int, Tensor] = {}
    for batch in micro_batches(examples, packing) if examples else []:
        scores = score(on_device(batch, device)).to("cpu", torch.float32)
        by_example |= dict(zip(batch.example_keys, scores.split(list(batch.completion_counts)), strict=True))
    return torch.cat([by_example[place] for place in range(len(examples))]) if examples else torch.empty(0)


def on_device(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The same batch with its tensors there."""
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in values.items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **moved)
