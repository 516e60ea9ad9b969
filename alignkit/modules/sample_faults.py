"""Samples of which a number is not finite: found before anything is learnt from them, and named."""

from __future__ import annotations

from typing import final

from torch import Tensor

from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.rollout import Rollout


@final
class SampleError(UserError):
    """Says which samples; an update may be left out because of them. All ranks raise it together."""

    def __init__(self, message: str, *, why: str, examples: tuple[EncodedExample, ...], places: tuple[int, ...]) -> None:
        super().__init__(message)
        self.why = why
        """In a few words, without the text."""
        self.examples = examples
        """All samples of the update, by prompt."""
        self.places = places
        """Of the prompts among `examples` whose samples are meant."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (str(self), self.why, self.examples, self.places)  # it travels between ranks


def check_tokens(rollout: Rollout) -> None:
    """Refuse samples whose log-probs or values are not finite.

    Raises:
        SampleError: naming what is not.
    """
    numbers = {
        "log-prob under the policy": rollout.logps,
        "log-prob under the reference": rollout.reference_logps,
        "value": rollout.values,
        "log-prob as it was drawn": rollout.sampled_logps,
    }
    for name, values in numbers.items():
        if values is not None and not values.isfinite().all():
            bad = (~values.isfinite()).nonzero()[:, 0]
            places = rollout.example_index[rollout.completion_index[bad]]
            why = f"the {name} of a sampled token is {float(values[bad[0]])}"
            raise SampleError(f"rollout: {why}.", why=why, examples=rollout.examples, places=distinct(places))


def distinct(places: Tensor) -> tuple[int, ...]:
    """Each place once, in order."""
    ordered: list[int] = places.unique().tolist()
    return tuple(ordered)


def _rebuilt(message: str, why: str, examples: tuple[EncodedExample, ...], places: tuple[int, ...]) -> SampleError:
    return SampleError(message, why=why, examples=examples, places=places)
