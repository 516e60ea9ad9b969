"""Text to token ids: one boundary, one terminator, answers first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from transformers import PreTrainedTokenizerBase

from alignkit.data.dialogue import render_dialogue
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.errors import UserError

PROMPT_SHARE = 0.25
"""Part of `max_length` that a prompt keeps when its completions alone would fill everything."""


@final
@dataclass(slots=True)
class EncodingReport:
    """What encoding did to the texts, for the user's eyes."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Examples left out, by reason."""
    trimmed_prompts: int = 0
    """Examples whose prompt lost its oldest tokens."""
    cut_completions: int = 0
    """Completions cut at `max_length`; these end without a terminator."""
    boundary_merges: int = 0
    """Examples where the tokenizer merged across the boundary, so that the completion starts a few tokens earlier."""


@final
class Encoder:
    """Encodes examples with one tokenizer.

    - The boundary between prompt and completion is the longest common token prefix of the encoded prompt and of the
      encoded whole texts: a token that the tokenizer merges across the boundary belongs to the completion.
    - A completion ends with exactly one terminator: the token with which the chat template closes an assistant's turn, else
      the end-of-text token. A completion that had to be cut has none: a forged one would teach to stop in mid-sentence.
    - Texts that contain a special token's text are left out: the tokenizer would turn it into the control token.

    Raises:
        UserError: when the tokenizer has no end-of-text token, or `format=chat` finds no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, format: str, max_length: int, overflow: str) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.overflow = overflow
        self.report = EncodingReport()
        self.uses_template = format != "text" and tokenizer.chat_template is not None
        self.strings_are_messages = format == "chat"
        if format == "chat" and tokenizer.chat_template is None:
            raise UserError("dataset.format = 'chat': the tokenizer has no chat template. Try dataset.format=text.")
        if tokenizer.eos_token_id is None:
            raise UserError(f"model.path: the tokenizer of {tokenizer.name_or_path!r} has no end-of-text token to end completions with.")
        self.text_terminator = int(tokenizer.eos_token_id)
        self.turn_terminator = self._turn_terminator() if self.uses_template else self.text_terminator
        self.bos = self._added_bos()
        self._specials = tuple(token for token in tokenizer.all_special_tokens if token)

    def encode(self, key: int, example: PreferenceExample) -> EncodedExample | None:
        """Token ids of one example, or None when it is left out; `report` counts why."""
        prompt, completions, terminator = self.render(example)
        texts = (*_contents(example.prompt), *example.completions)
        if any(special in text for text in texts for special in self._specials):
            return self._drop("special_token_in_text")
        prompt_ids = self._ids(prompt)
        whole = [self._ids(prompt + completion) for completion in completions]
        boundary = min(_common_prefix(prompt_ids, ids) for ids in whole)
        if boundary == 0:
            return self._drop("empty_prompt")
        self.report.boundary_merges += boundary < len(prompt_ids)
        return self._fit(key, prompt_ids[:boundary], [[*ids[boundary:], terminator] for ids in whole], example.margin)

    def render(self, example: PreferenceExample) -> tuple[str, tuple[str, ...], int]:
        """The prompt's text, the completions' texts and the terminator of an example."""
        prompt = example.prompt
        if isinstance(prompt, str):
            if not self.strings_are_messages:
                return prompt, example.completions, self.text_terminator
            prompt = (Message(role="user", content=prompt),)
        if self.uses_template:
            text = self._template(prompt, generate=True)
            return text, tuple(completion.strip() for completion in example.completions), self.turn_terminator
        return render_dialogue(prompt), tuple(" " + completion for completion in example.completions), self.text_terminator

    def encode_prompt(self, example: PreferenceExample, room: int) -> list[int]:
        """Token ids of the prompt alone, for generation; the newest `room` of them."""
        ids = self._ids(self.render(example)[0])
        return ids if len(ids) <= room else self._trim_prompt(ids, room)

    def _fit(self, key: int, prompt: list[int], completions: list[list[int]], margin: float) -> EncodedExample | None:
        longest = max(map(len, completions))
        if len(prompt) + longest > self.max_length:
            if self.overflow == "drop":
                return self._drop("too_long")
            room = max(self.max_length - longest, min(len(prompt), int(self.max_length * PROMPT_SHARE)))
            if room < len(prompt):
                prompt = self._trim_prompt(prompt, room)
                self.report.trimmed_prompts += 1
            limit = self.max_length - len(prompt)
            self.report.cut_completions += sum(len(ids) > limit for ids in completions)
            completions = [ids[:limit] for ids in completions]
        distinct = {tuple(ids) for ids in completions}
        if len(distinct) < len(completions):
            return self._drop("truncated_identical")
        return EncodedExample(key=key, prompt_ids=tuple(prompt), completion_ids=tuple(map(tuple, completions)), margin=margin)

    def _trim_prompt(self, ids: list[int], room: int) -> list[int]:
        keep_bos = bool(self.bos) and ids[: len(self.bos)] == self.bos
        return [*self.bos, *ids[len(ids) - room + len(self.bos) :]] if keep_bos else ids[len(ids) - room :]

    def _drop(self, reason: str) -> EncodedExample | None:
        self.report.dropped[reason] += 1
        return None

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if ids[: len(self.bos)] == self.bos else [*self.bos, *ids]

    def _added_bos(self) -> list[int]:
        """The beginning-of-text token where the tokenizer adds one by itself; templates write their own."""
        bos = self.tokenizer.bos_token_id
        ids: list[int] = self.tokenizer("a")["input_ids"]
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _template(self, messages: Sequence[Message], *, generate: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
        assert isinstance(text, str)
        return text

    def _turn_terminator(self) -> int:
        """The token that the template writes after an assistant's content."""
        probe = "alignkit"
        question = Message(role="user", content="a")
        text = self._template((question, Message(role="assistant", content=probe)), generate=False)
        tail = text[text.rindex(probe) + len(probe) :]
        ids: list[int] = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        return ids[0] if ids and ids[0] in self.tokenizer.all_special_ids else self.text_terminator


def _contents(prompt: str | tuple[Message, ...]) -> tuple[str, ...]:
    return (prompt,) if isinstance(prompt, str) else tuple(message.content for message in prompt)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
