"""Text to token ids: one boundary, one terminator, answers first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from jinja2 import TemplateError
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
@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a chat template writes around an assistant's answer: mostly nothing but the terminator."""

    before: str
    """Between the invitation to answer and the answer: Llama 2 has a space."""
    after: str
    """Between the answer and the terminator."""
    terminator: int
    """The token that closes the turn."""


@final
class Encoder:
    """Encodes examples with one tokenizer.

    - The boundary between prompt and completion is the longest common token prefix of the encoded prompt and of the
      encoded whole texts: a token that the tokenizer merges across the boundary belongs to the completion.
    - A completion ends with exactly one terminator: the token with which the chat template closes an assistant's turn, else
      the end-of-text token. A completion that had to be cut has none: a forged one would teach to stop in mid-sentence.
    - A text begins with the beginning-of-text token where the tokenizer adds one; a dialogue begins as its template says.
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
        self.bos = self._added_bos()
        self.turn = self._turn() if self.uses_template else Turn(before="", after="", terminator=self.text_terminator)
        self._special = re.compile("|".join(map(re.escape, self._special_tokens())))

    def encode(self, key: int, example: PreferenceExample) -> EncodedExample | None:
        """Token ids of one example, or None when it is left out; `report` counts why."""
        try:
            prompt, completions, terminator = self.render(example)
        except TemplateError:  # two turns in a row by one speaker, or a system turn, where the template knows none
            return self._drop("template_refused")
        is_chat = self._is_chat(example)
        # In one text a control token may be spelt across the boundary; a template stands between its contents.
        texts = (*_contents(example.prompt), *completions) if is_chat else tuple(prompt + completion for completion in completions)
        if any(self._special.search(text) for text in texts):
            return self._drop("special_token_in_text")
        prompt_ids = self._ids(prompt, is_chat)
        whole = [self._ids(prompt + completion, is_chat) for completion in completions]
        boundary = min(_common_prefix(prompt_ids, ids) for ids in whole)
        if boundary == 0:
            return self._drop("empty_prompt")
        item = self._fit(key, prompt_ids[:boundary], [[*ids[boundary:], terminator] for ids in whole], example.margin)
        self.report.boundary_merges += item is not None and boundary < len(prompt_ids)
        return item

    def render(self, example: PreferenceExample) -> tuple[str, tuple[str, ...], int]:
        """The prompt's text, the completions' texts and the terminator of an example.

        Raises:
            TemplateError: when the chat template refuses the dialogue.
        """
        prompt = (Message(role="user", content=example.prompt),) if isinstance(example.prompt, str) else example.prompt
        if self._is_chat(example):
            lead = self.turn.before.rstrip(" ")
            space = self.turn.before.removeprefix(lead)  # tokenizers join a space with the word that follows
            answers = tuple(f"{space}{completion.strip()}{self.turn.after}" for completion in example.completions)
            return self._template(prompt, generate=True) + lead, answers, self.turn.terminator
        if isinstance(example.prompt, str):
            return example.prompt, example.completions, self.text_terminator
        return render_dialogue(prompt), tuple(" " + completion for completion in example.completions), self.text_terminator

    def encode_prompt(self, example: PreferenceExample, room: int) -> list[int]:
        """Token ids of the prompt alone, for generation; the newest `room` of them."""
        ids = self._ids(self.render(example)[0], self._is_chat(example))
        return ids if len(ids) <= room else self._trim_prompt(ids, room)

    def _is_chat(self, example: PreferenceExample) -> bool:
        return self.uses_template and (self.strings_are_messages or not isinstance(example.prompt, str))

    def _fit(self, key: int, prompt: list[int], completions: list[list[int]], margin: float) -> EncodedExample | None:
        longest = max(map(len, completions))
        trimmed, cut = False, 0
        if len(prompt) + longest > self.max_length:
            if self.overflow == "drop":
                return self._drop("too_long")
            room = max(self.max_length - longest, min(len(prompt), int(self.max_length * PROMPT_SHARE)))
            trimmed = room < len(prompt)
            if trimmed:
                prompt = self._trim_prompt(prompt, room)
            limit = self.max_length - len(prompt)
            cut = sum(len(ids) > limit for ids in completions)
            completions = [ids[:limit] for ids in completions]
        if len(set(map(tuple, completions))) < len(completions):
            return self._drop("truncated_identical" if cut else "identical")
        self.report.trimmed_prompts += trimmed
        self.report.cut_completions += cut
        return EncodedExample(key=key, prompt_ids=tuple(prompt), completion_ids=tuple(map(tuple, completions)), margin=margin)

    def _trim_prompt(self, ids: list[int], room: int) -> list[int]:
        bos = self.tokenizer.bos_token_id
        # Where the token opens every turn (`<|im_start|>`), the first one says nothing of the text's beginning.
        if ids[0] == bos and bos not in ids[1:]:
            return [ids[0], *ids[len(ids) - room + 1 :]]
        return ids[len(ids) - room :]

    def _drop(self, reason: str) -> EncodedExample | None:
        self.report.dropped[reason] += 1
        return None

    def _ids(self, text: str, is_chat: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if is_chat else [*self.bos, *ids]

    def _added_bos(self) -> list[int]:
        """The beginning-of-text token where the tokenizer adds one by itself; templates write their own."""
        bos = self.tokenizer.bos_token_id
        ids: list[int] = self.tokenizer("a")["input_ids"]
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _special_tokens(self) -> set[str]:
        """Texts that the tokenizer turns into control tokens; `all_special_tokens` has only those with a role of their own."""
        flagged = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return {*flagged, *self.tokenizer.all_special_tokens, str(self.tokenizer.convert_ids_to_tokens(self.turn.terminator))} - {""}

    def _template(self, messages: Sequence[Message], *, generate: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
        assert isinstance(text, str)
        return text

    def _turn(self) -> Turn:
        """What the template writes around an answer, read off an example."""
        question, answer = Message(role="user", content="a"), Message(role="assistant", content="alignkit")
        try:
            invitation, text = self._template((question,), generate=True), self._template((question, answer), generate=False)
        except TemplateError as error:
            raise UserError(
                f"model.path: the chat template of {self.tokenizer.name_or_path!r} cannot write a question and its answer ({error}). "
                "Try dataset.format=text."
            ) from None
        head, _, tail = text.rpartition(answer.content)
        before = head.removeprefix(invitation) if head.startswith(invitation) else ""
        tokens = {token.content: number for number, token in self.tokenizer.added_tokens_decoder.items()}
        closing = [(tail.index(content), -len(content), content) for content in tokens if content and content in tail]
        if not closing:
            return Turn(before=before, after="", terminator=self.text_terminator)
        start, _, content = min(closing)
        return Turn(before=before, after=tail[:start], terminator=tokens[content])


def _contents(prompt: str | tuple[Message, ...]) -> tuple[str, ...]:
    return (prompt,) if isinstance(prompt, str) else tuple(message.content for message in prompt)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
