"""Text to token ids: one boundary, one terminator, answers first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from alignkit.data.control_tokens import ControlTokens
from alignkit.data.dialogue import render_dialogue
from alignkit.data.examples import EncodedExample, Message, PreferenceExample
from alignkit.data.outcomes import EncodingReport, Outcome
from alignkit.errors import UserError
from alignkit.models.chat_templates import in_time

PROMPT_SHARE = 0.25
"""Part of `max_length` that a prompt keeps when its completions alone would fill everything."""
TOGETHER = 1024
"""Examples whose texts are given to the tokenizer in one call."""


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
@dataclass(frozen=True, kw_only=True, slots=True)
class _Texts:
    """What the tokenizer is given of an example."""

    example: PreferenceExample
    begin: list[int]
    """Token ids that stand before each text."""
    head: str
    """Where each text begins and no token goes on: up to the prompt's last control token."""
    prompt: str
    """The rest of it."""
    whole: tuple[str, ...]
    """That rest with each completion."""
    terminator: int

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.head, self.prompt, *self.whole)


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
        self._is_plain = getattr(type(tokenizer), "_encode_plus", None) is PreTrainedTokenizerFast._encode_plus
        self.text_terminator = int(tokenizer.eos_token_id)
        self.bos = self._added_bos()
        self.turn = self._turn() if self.uses_template else Turn(before="", after="", terminator=self.text_terminator)
        self._control = ControlTokens(tokenizer, self.turn.terminator)
        self._written: dict[tuple[tuple[str, bool], ...], int] = {}

    def encode(self, key: int, example: PreferenceExample) -> EncodedExample | None:
        """Token ids of one example, or None when it is left out; `report` counts why."""
        return next(iter(self.encode_all({key: example})), None)

    def encode_all(self, examples: Mapping[int, PreferenceExample]) -> list[EncodedExample]:
        """Token ids of the examples, given by their keys, that are not left out; `report` counts why others are.

        Many texts are given to the tokenizer at once, each of them once: fast tokenizers work on them in parallel.
        """
        encoded: list[EncodedExample] = []
        for outcome in self.outcomes(examples):
            self.report.add(outcome)
            if outcome.example is not None:
                encoded.append(outcome.example)
        return encoded

    def outcomes(self, examples: Mapping[int, PreferenceExample]) -> Iterator[Outcome]:
        """What becomes of each example, in their order. Nothing is counted."""
        keys = list(examples)
        for start in range(0, len(keys), TOGETHER):
            candidates = {key: self._texts(examples[key]) for key in keys[start : start + TOGETHER]}
            ids = self._ids([part for texts in candidates.values() if isinstance(texts, _Texts) for part in texts.parts])
            for key, texts in candidates.items():
                if isinstance(texts, str):
                    yield Outcome(reason=texts)
                    continue
                begin = [*texts.begin, *ids[texts.head]]
                prompt, *whole = ([*begin, *ids[part]] for part in texts.parts[1:])
                yield self._join(key, texts, prompt, whole)

    def _texts(self, example: PreferenceExample) -> _Texts | str:
        """What the tokenizer is given of an example, or the reason to leave it out."""
        is_chat = self._is_chat(example)
        if is_chat and not example.prompt:
            return "empty_prompt"
        try:
            prompt, completions, terminator = self.render(example)
        except TemplateError:  # two turns in a row by one speaker, or a system turn, where the template knows none
            return "template_refused"
        whole = tuple(prompt + completion for completion in completions)
        if any(map(self._control.is_spelt, (*_contents(example.prompt), *completions) if is_chat else whole)):
            return "special_token_in_text"
        if is_chat and (self._is_forged(example.prompt, prompt) or any(self._control.joins(prompt, answer) for answer in completions)):
            return "special_token_in_text"
        cut = self._control.last_cut(prompt) if is_chat else 0
        return _Texts(
            example=example,
            begin=[] if is_chat else self.bos,
            head=prompt[:cut],
            prompt=prompt[cut:],
            whole=tuple(text[cut:] for text in whole),
            terminator=terminator,
        )

    def _is_forged(self, prompt: str | tuple[Message, ...], text: str) -> bool:
        """Whether a dialogue has more control tokens than its template writes: one that puts contents together, or cuts them, can make
        one out of contents that have none."""
        turns = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
        bare = [replace(turn, content="a") if turn.content.strip() else turn for turn in turns]
        kinds = tuple((turn.role, turn.content == "a") for turn in bare)
        if kinds not in self._written:
            try:
                self._written[kinds] = self._control.count(self._template(bare, generate=True) + self.turn.before)
            except TemplateError:
                return self._control.is_spelt(text)
        return self._control.count(text) > self._written[kinds]

    def _join(self, key: int, texts: _Texts, prompt: list[int], whole: list[list[int]]) -> Outcome:
        """An example out of the token ids of its prompt and of its whole texts."""
        boundary = min(_common_prefix(prompt, ids) for ids in whole)
        if boundary == 0:
            return Outcome(reason="empty_prompt")
        completions = [[*ids[boundary:], texts.terminator] for ids in whole]
        return self._fit(key, prompt[:boundary], completions, texts.example, merged=boundary < len(prompt))

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
            return self._whole_prompt(prompt) + lead, answers, self.turn.terminator
        if isinstance(example.prompt, str):
            return example.prompt, example.completions, self.text_terminator
        return render_dialogue(prompt), tuple(" " + completion for completion in example.completions), self.text_terminator

    def _whole_prompt(self, prompt: Sequence[Message]) -> str:
        """A dialogue through the template, with all that was said to the model in it; what it said itself may be shortened.

        Raises:
            TemplateError: when the template refuses it, or leaves a turn out.
        """
        text = self._template(prompt, generate=True)
        if not all(message.content.strip() in text for message in prompt if message.role != "assistant"):
            raise TemplateError("a turn is left out")
        return text

    def encode_prompt(self, example: PreferenceExample, room: int) -> list[int]:
        """Token ids of the prompt alone, for generation; the newest `room` of them."""
        prompt = self.render(example)[0]
        ids = [*([] if self._is_chat(example) else self.bos), *self._ids([prompt])[prompt]]
        return ids if len(ids) <= room else self._trim_prompt(ids, room)

    def _is_chat(self, example: PreferenceExample) -> bool:
        return self.uses_template and (self.strings_are_messages or not isinstance(example.prompt, str))

    def _fit(self, key: int, prompt: list[int], completions: list[list[int]], example: PreferenceExample, *, merged: bool) -> Outcome:
        longest = max(map(len, completions))
        trimmed, cut = False, 0
        if len(prompt) + longest > self.max_length:
            if self.overflow == "drop":
                return Outcome(reason="too_long")
            room = max(self.max_length - longest, min(len(prompt), int(self.max_length * PROMPT_SHARE)))
            trimmed = room < len(prompt)
            if trimmed:
                prompt = self._trim_prompt(prompt, room)
            limit = self.max_length - len(prompt)
            cut = sum(len(ids) > limit for ids in completions)
            completions = [ids[:limit] for ids in completions]
        if len(set(map(tuple, completions))) < len(completions):
            return Outcome(reason="truncated_identical" if cut else "identical")
        encoded = EncodedExample(
            key=key,
            prompt_ids=tuple(prompt),
            completion_ids=tuple(map(tuple, completions)),
            margin=example.margin,
            ranks=example.ranks,
            desirable=example.desirable,
            ratings=example.ratings,
            source=example.source,
        )
        return Outcome(example=encoded, trimmed=trimmed, cut=cut, merged=merged)

    def _trim_prompt(self, ids: list[int], room: int) -> list[int]:
        bos = self.tokenizer.bos_token_id
        # Where the token opens every turn (`<|im_start|>`), the first one says nothing of the text's beginning.
        if ids[0] == bos and bos not in ids[1:]:
            return [ids[0], *ids[len(ids) - room + 1 :]]
        return ids[len(ids) - room :]

    def _ids(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Token ids by text, without any that the tokenizer adds by itself."""
        distinct = [text for text in dict.fromkeys(texts) if text]
        if not distinct:
            return {"": []}
        backend = self.tokenizer.backend_tokenizer if self._is_plain else None
        if backend is not None and backend.truncation is None and backend.padding is None:
            # What a call does, without what is not asked for: offsets and masks take a third of the time.
            ids = [encoding.ids for encoding in backend.encode_batch_fast(distinct, add_special_tokens=False)]
        else:
            ids = self.tokenizer(distinct, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"": [], **dict(zip(distinct, ids, strict=True))}

    def _added_bos(self) -> list[int]:
        """The beginning-of-text token where the tokenizer adds one by itself; templates write their own."""
        bos = self.tokenizer.bos_token_id
        ids: list[int] = self.tokenizer("a")["input_ids"]
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _template(self, messages: Sequence[Message], *, generate: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            with in_time(f"model.path: {self.tokenizer.name_or_path!r}"):
                text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
        except (UserError, TemplateError):
            raise
        except Exception as error:  # a template is a program, which may add a text to a number, or divide by 0
            raise TemplateError(f"{type(error).__name__}: {error}") from error
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
    if right[: len(left)] == left:  # nearly always, and much faster
        return len(left)
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
