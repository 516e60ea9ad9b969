"""What a result is: the unit, direction and words of `alignkit/metrics.py`, for names as runs write them."""

from __future__ import annotations

from collections.abc import Iterable

from alignkit.errors import UserError, did_you_mean
from alignkit.metrics import TRAIN, VALIDATION, Metric, metric
from alignkit.run_dir import START

BEST = "best/"
"""In `results.json` before the best value that a validation measured."""
PLACES = {TRAIN: "training", VALIDATION: "held out", START: "start", BEST: "best"}
"""Prefixes of a metric's name, and what they mean."""

SHOWN = 40
"""Names in a message."""


def bare(name: str) -> str:
    """A metric's own name: `rewards/margins` of `start/val/rewards/margins`."""
    for prefix in (START, BEST, TRAIN, VALIDATION):
        name = name.removeprefix(prefix)
    return name


def measure(name: str) -> Metric | None:
    """What a name stands for; None for one that is no metric, like `seconds`."""
    try:
        return metric(bare(name))
    except KeyError:
        return None


def words(name: str) -> str:
    """A panel's title: `rewards/margins, held out`."""
    place = ", ".join(words for prefix, words in PLACES.items() if name.removeprefix(START).removeprefix(BEST).startswith(prefix))
    when = ", ".join(words for prefix, words in PLACES.items() if prefix in (START, BEST) and name.startswith(prefix))
    return ", ".join(filter(None, (bare(name), place, when)))


def unit(name: str) -> str:
    """A result's unit; nothing where it has none or none is known."""
    known = measure(name)
    return known.unit if known is not None and known.unit != "1" else ""


def label(name: str) -> str:
    """An axis's words: `rewards/margins, held out (reward)`."""
    return f"{words(name)} ({unit(name)})" if unit(name) else words(name)


def direction(name: str, better: str | None) -> str:
    """`higher` or `lower`: which is better, as said or as `alignkit/metrics.py` has it.

    Raises:
        UserError: when neither says.
    """
    known = measure(name)
    found = better if better is not None else known.better if known is not None else "neither"
    if found not in ("higher", "lower"):
        raise UserError(f"{name!r}: neither higher nor lower is better by itself. Say which you seek: better='higher' or better='lower'.")
    return found


def check_has(what: str, name: str, known: Iterable[object]) -> None:
    """Refuse a name that is not there, naming the nearest and what is.

    Raises:
        UserError: naming them.
    """
    names = [str(one) for one in known]
    if name not in names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise UserError(f"{what} {name!r} is not there.{did_you_mean(name, names)} There are: {', '.join(names[:SHOWN]) or 'none'}{more}.")
