"""Files as disks, networks, editors and strangers change them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

HOSTILE = (
    *(
        b"\x00",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r",
        b"\n",
        b"\r\n",
        b"\x0c",
        b"\x1a",
        b"\x85",
        b"\t",
    ),
    *(b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b"{}", b"[]", b'""', b"true"),
    *(b"\xe2\x80\xa8", b'"\\ud800"', b"\\u0000", b"9" * 400, b"1e-12", b"2020-01-01", b'"4"', b"[" * 3000, b'{"a":' * 3000, b" " * 70_000),
)
"""Pieces that readers trip over."""
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", " ", "\n", "\u2028", "\x00", "4", "null", "NaN", "[1]", '"quoted"', "2020-01-01", "</s>", "<|im_end|>", "\ud7ff\U0001f600", "user"]
)
"""Texts that look like something else."""
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, 1, -1, 1e-12, 0.1 + 0.2])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say."""


@st.composite
def mutated(draw: st.DrawFn, content: bytes, most: int = 3) -> bytes:
    """The bytes of a file after one change, or a few: cut off, bits flipped, pieces taken out, doubled, or put in."""
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(content)))
        other = min(len(content), place + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["put in", "written over", "flipped", "taken out", "doubled", "cut off", "swapped", "zeroed"]))
        if kind == "put in":
            content = content[:place] + draw(st.sampled_from(HOSTILE)) + content[place:]
        elif kind == "written over":
            new = draw(st.sampled_from(HOSTILE))
            content = content[:place] + new + content[place + len(new) :]
        elif kind == "flipped" and place < len(content):
            content = content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
        elif kind == "taken out":
            content = content[:place] + content[other:]
        elif kind == "doubled":
            content = content[:other] + content[place:other] + content[other:]
        elif kind == "cut off":
            content = content[:place]
        elif kind == "swapped":
            content = content[other:] + content[:other]
        else:
            content = content[:place] + bytes(other - place) + content[other:]
    return content


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which one part, wherever it is, is something else, is missing or has come to it."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        way = draw(st.sampled_from(["inside", "inside", "gone", "renamed"]))
        rest = {name: one for name, one in value.items() if name != key}
        return (
            rest if way == "gone" else {**rest, draw(TEXTS): value[key]} if way == "renamed" else {**value, key: draw(altered(value[key]))}
        )
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        way = draw(st.sampled_from(["inside", "inside", "gone", "doubled"]))
        middle = [] if way == "gone" else [value[place]] * 2 if way == "doubled" else [draw(altered(value[place]))]
        return [*value[:place], *middle, *value[place + 1 :]]
    return draw(VALUES)


def lines(*rows: Any) -> bytes:
    """JSON lines, characters as they are."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
