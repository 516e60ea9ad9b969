"""The plain-text form of a dialogue, as Anthropic's HH data writes it: for models without a chat template.

"\\n\\nHuman: Hi\\n\\nAssistant: Hello\\n\\nHuman: Bye\\n\\nAssistant:"   and then a completion, after one space
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from alignkit.data.examples import Message, Role

SPEAKERS: Mapping[Role, str] = {"system": "System", "user": "Human", "assistant": "Assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES: Mapping[str, Role] = {"Human": "user", "Assistant": "assistant"}


def parse_dialogue(text: str) -> tuple[Message, ...]:
    """The turns of a dialogue in the order they stand, two in a row by one speaker included.

    A turn's content is what follows the colon less one space, so that `render_dialogue` gives the same text back wherever that space
    was there.

    Raises:
        ValueError: when the text does not begin with a turn.
    """
    before, *rest = _TURN.split(text)
    if before or not rest:
        raise ValueError(f"must begin with '\\n\\nHuman:', not {text[:30]!r}")
    return tuple(
        Message(role=_ROLES[speaker], content=content.removeprefix(" ")) for speaker, content in zip(rest[::2], rest[1::2], strict=True)
    )


def render_dialogue(messages: Sequence[Message]) -> str:
    """The prompt that asks for the next assistant turn; the completion is `" " + content`."""
    return "".join(f"\n\n{SPEAKERS[message.role]}: {message.content}" for message in messages) + "\n\nAssistant:"
