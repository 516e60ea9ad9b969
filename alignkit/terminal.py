"""Texts of others on a terminal: nothing in them moves the cursor, sets a title or turns the text around."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """The text with every control and format character spelt out, line breaks too."""
    return "".join(character if is_harmless(character) else character.encode("unicode_escape").decode() for character in text)


def harmless(text: str) -> str:
    """The text with its line breaks and tabs as they are and every other control character spelt out."""
    return "".join(character if character in "\n\t" or is_harmless(character) else visible(character) for character in text)


def is_harmless(character: str) -> bool:
    """Whether a terminal shows the character and does nothing else."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
