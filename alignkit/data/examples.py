"""Records that travel from a data source to the packer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, final

Role: TypeAlias = Literal["system", "user", "assistant"]
OVERALL = "overall"
"""The attribute that means how good a completion is on the whole, whatever a data set calls it."""


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
    """Chosen first, or best first where `ranks` does not say otherwise; one for supervised fine-tuning. For dialogues the content of the
    next assistant turn."""
    margin: float = 0.0
    """Rating gap between the best and the worst (of a pair: chosen and rejected) in the annotator's units, 0 where the data has none."""
    ranks: tuple[int, ...] = ()
    """One a completion: 0 is best, equal is a tie. Empty: the order is the ranking, without ties."""
    desirable: tuple[bool, ...] = ()
    """One a completion: whether a person would want it. Empty where nobody was asked."""
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """For each attribute (`helpfulness`) one rating a completion in the annotator's units, higher is better; NaN where there is none."""
    source: str = ""
    """Name of the part of a mixture that the example is from; empty outside of mixtures."""


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
    """This and what follows is what `PreferenceExample` says, for the completions that the objective reads."""
    ranks: tuple[int, ...] = ()
    desirable: tuple[bool, ...] = ()
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """The attributes that the objective reads, no others."""
    source: str = ""

    @property
    def packed_tokens(self) -> int:
        """Tokens of the example when the prompt is shared."""
        return len(self.prompt_ids) + sum(map(len, self.completion_ids))
