"""Values inside a page: as JSON that cannot end the script that holds it, as arrays of bytes, and as hashes that a policy names."""

from __future__ import annotations

import base64
import hashlib
import json

import numpy as np
from numpy.typing import NDArray

ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}
"""What HTML could read as its own; JSON means the same by either spelling."""


def script_json(value: object) -> str:
    """JSON for `<script type="application/json">`. No text in it can close the element, open a comment or end a line of JavaScript:
    `<`, `>`, `&` and all that is not ASCII, U+2028 and halves of surrogate pairs among it, are spelt as escapes.

    Raises:
        ValueError: on NaN and infinities, for which JSON has no word.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def packed(values: NDArray[np.generic]) -> str:
    """Base64 of the array's bytes, little-endian: a third of the size of digits, and read without parsing them."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def script_hash(source: str) -> str:
    """The name of a script in a content security policy. Browsers hash what stands between the tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')}'"
