from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from alignkit.reporting.embedding import packed, script_hash, script_json


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "<!-- <script>",
        "a\u2028b\u2029c",
        "\ud800 alone",
        "&lt; & >",
        'quote " and \\ back',
        "\x00\x1f",
    ],
)
def test_a_text_comes_back_and_cannot_end_its_script(text: str) -> None:
    inside = script_json({text: [text]})
    assert json.loads(inside) == {text: [text]}
    assert inside.isascii()
    assert not set("<>&\n\r") & set(inside)


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


def test_arrays_are_little_endian_bytes() -> None:
    assert base64.b64decode(packed(np.array([1, -2], dtype=">i4"))) == b"\x01\x00\x00\x00\xfe\xff\xff\xff"
    assert np.frombuffer(base64.b64decode(packed(np.array([0.25, 3.0], dtype=np.float32))), dtype="<f4").tolist() == [0.25, 3.0]


def test_a_hash_is_written_as_a_policy_names_it() -> None:
    # The example of the W3C's Content Security Policy Level 2, section 7.17.5: alert('Hello, world.');
    assert script_hash("alert('Hello, world.');") == "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
