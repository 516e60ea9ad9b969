"""Records that travel from a data source to the packer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, final

Role: TypeAlias = Literal["system", "user", "assistant"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceExample:
    """A prompt and its completions, as text.

    Worked example: `PreferenceExample(prompt="Question: 1+1?\\nAnswer:", completions=(" 2", " 3"))`.
    """

    prompt: str | tuple[Message, ...]
    """Plain text, or the dialogue so far (ending with a user turn)."""
    completions: tuple[str, ...]
    """Chosen first, or best first; one for supervised fine-tuning. For dialogues the content of the next assistant turn."""
    margin: float = 0.0
    """Rating gap between chosen and rejected in the annotator's units, 0 where the data has none."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedExample:
    """A prompt and its completions, as token ids. A completion's position continues from its prompt's length."""

    key: int
    """Position among the loaded examples, those for training first, then those for validation: for messages, and for looking up."""
    prompt_ids: tuple[int, ...]
    """At least one token: something must predict a completion's first token."""
    completion_ids: tuple[tuple[int, ...], ...]
    """Each at least one token; ends with the terminator unless it was cut."""
    margin: float = 0.0

    @property
    def packed_tokens(self) -> int:
        """Tokens of the example when the prompt is shared."""
        return len(self.prompt_ids) + sum(map(len, self.completion_ids))
