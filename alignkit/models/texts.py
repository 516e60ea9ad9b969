"""How the texts of a run were written for its model: what whoever loads the model has to write, too."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from transformers import PreTrainedTokenizerBase

from alignkit.data.encoding import Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError, check_choice

CHAT = "chat"
DIALOGUE = "dialogue"
PLAIN = "text"
KINDS = (CHAT, DIALOGUE, PLAIN)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """What the data of a run looked like to its model."""

    kind: str
    """`chat`: dialogues through the tokenizer's chat template; `dialogue`: dialogues as plain text (`render_dialogue`); `text`: plain
    text."""
    terminator_id: int
    """The token that ends a completion."""

    def __post_init__(self) -> None:
        check_choice("texts.kind", self.kind, KINDS)

    @classmethod
    def of(cls, encoder: Encoder, example: PreferenceExample) -> Texts:
        """As an encoder writes an example."""
        is_dialogue = not isinstance(example.prompt, str)
        plain = DIALOGUE if is_dialogue else PLAIN
        kind = CHAT if encoder.uses_template and (encoder.strings_are_messages or is_dialogue) else plain
        return cls(kind=kind, terminator_id=encoder.render(example)[2])

    @property
    def format(self) -> str:
        """`dataset.format` under which texts are written so. A prompt that is a string is a user's message under `chat`; else it is taken
        as it is."""
        return CHAT if self.kind == CHAT else PLAIN

    def encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoder:
        """One that writes texts so.

        Raises:
            UserError: when the tokenizer has lost its chat template or its end-of-text token.
        """
        return Encoder(tokenizer, format=self.format, max_length=max_length, overflow="drop")


def save_texts(file: Path, texts: Texts) -> None:
    """Write the file whole or not at all."""
    draft = file.with_name(f"{file.name}.part")
    draft.write_text(json.dumps(asdict(texts), indent=2) + "\n", encoding="utf-8")
    draft.replace(file)


def load_texts(file: Path) -> Texts | None:
    """What `save_texts` wrote; None where there is no such file.

    Raises:
        UserError: when it cannot be read.
    """
    if not file.is_file():
        return None
    try:
        return Texts(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: does not say how texts are written ({error}).") from None
