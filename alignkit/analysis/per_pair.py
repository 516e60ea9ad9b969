"""Arrays with a number a pair or a completion, as figures take them: columns of `pairs_of`, or anybody's own."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np

from alignkit.errors import UserError


def same_length(where: str, **arrays: Sized) -> None:
    """Refuse arrays of different lengths.

    Raises:
        UserError: naming them and their lengths.
    """
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise UserError(f"{where}: arrays differ in length ({lengths}). Give one number of each for every pair.")


def finite(where: str, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The places where all arrays [B] have finite numbers.

    Raises:
        UserError: when there is none.
    """
    known = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    if not known.any():
        raise UserError(f"{where}: no place of {len(known)} has finite numbers everywhere.")
    return tuple(array[known] for array in arrays)
