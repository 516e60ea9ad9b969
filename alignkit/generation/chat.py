"""A dialogue in the terminal: what the user types is answered as it is written, and what was said stays in the prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import final

from transformers import PreTrainedTokenizerBase

from alignkit.data.examples import Message, PreferenceExample
from alignkit.errors import UserError
from alignkit.generation.answered import AnsweredPrompt
from alignkit.terminal import harmless

ASK = "> "
INCOMPLETE = "\ufffd"
"""What a decoder makes of the first bytes of a character."""

Answer = Callable[[PreferenceExample, int], AnsweredPrompt]
"""Answers the dialogue so far; the number of the turn decides the random numbers."""


@final
class Stream:
    """Prints an answer token by token, whole characters at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def __call__(self, token: int) -> None:
        """One more token of the answer."""
        self._ids.append(token)
        text = self.text
        # What is cut off mid-character reads as another one until its other bytes come.
        if not text.endswith(INCOMPLETE) and text.startswith(self._shown):
            print(harmless(text[len(self._shown) :]), end="", flush=True)
            self._shown = text

    @property
    def text(self) -> str:
        """The answer so far, without the white space before it."""
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True)).lstrip()

    def end(self) -> str:
        """Print what is left, begin a new line, and forget the answer, which is returned."""
        text = self.text
        print(harmless(text[len(self._shown) :]), flush=True)
        self._ids, self._shown = [], ""
        return text


def converse(answer: Answer, stream: Stream | None) -> Iterator[AnsweredPrompt]:
    """Every answered turn of a dialogue that the user leads, until the end of input (Ctrl-D). Ctrl-C ends an answer early: what was
    written of it stays in the dialogue, and there is no row of it.

    `stream` prints while `answer` writes; None prints the best of several answers and its score.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives `input` editing and a history
    dialogue: list[Message] = []
    for turn, question in enumerate(questions()):
        asked = [*dialogue, Message(role="user", content=question)]
        try:
            answered = answer(PreferenceExample(prompt=tuple(asked), completions=()), turn)
        except UserError as error:
            print(harmless(str(error)), flush=True)
            continue
        except KeyboardInterrupt:
            if stream is None:
                raise
            dialogue = [*asked, Message(role="assistant", content=stream.end())]
            continue
        said = answered.completions[0] if answered.scores is None else answered.completions[answered.best]
        if stream is not None:
            stream.end()
        else:
            print(harmless(said), flush=True)
        if answered.scores is not None:
            of = f", the best of {len(answered.scores)}" if len(answered.scores) > 1 else ""
            print(f"[score {answered.scores[answered.best]:.4g}{of}]", flush=True)
        dialogue = [*asked, Message(role="assistant", content=said)]
        yield answered


def questions() -> Iterator[str]:
    """What the user types, line by line, until the end of input; blank lines are none."""
    while True:
        try:
            line = input(ASK)
        except EOFError:
            print(flush=True)
            return
        if line.strip():
            yield line
