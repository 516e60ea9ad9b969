"""Texts of others inside Markdown: as text that is shown, never as markup, a link or HTML."""

from __future__ import annotations

import re

from alignkit.terminal import harmless, visible

SPECIAL = re.compile(r"[\\`|]|!(?=\[)|(?<=\])[(\[:]")
"""What begins code, ends a cell, and makes images and links of brackets, which alone are intervals. Stress does no harm."""
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
ESCAPED = re.compile(r"\\([\\`|!(\[:])|&(amp|lt|gt);")
TICKS = re.compile(r"`+")


def escaped(text: str) -> str:
    """One line of text, with nothing in it that Markdown or HTML would read as its own."""
    marked = SPECIAL.sub(lambda found: f"\\{found[0]}", visible(text))
    return "".join(ENTITIES.get(character, character) for character in marked)


def plain(text: str) -> str:
    """What `escaped` was given, but for control characters."""
    characters = {name[1:-1]: character for character, name in ENTITIES.items()}
    return ESCAPED.sub(lambda found: found[1] or characters[found[2]], text)


def code(text: str) -> str:
    """One line of code, whatever backticks are in it."""
    ticks = "`" * (longest_ticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{visible(text)}{pad}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """Lines of code, whatever fences are in them."""
    fence = "`" * max(3, longest_ticks(text) + 1)
    return f"{fence}{language}\n{harmless(text)}\n{fence}"


def longest_ticks(text: str) -> int:
    """Of backticks in a row."""
    return max(map(len, TICKS.findall(text)), default=0)
