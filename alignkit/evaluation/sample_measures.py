"""What samples of two models say of them: length, variety, entropy, how far one is from the other, and what a scorer thinks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from alignkit.evaluation.cost_measures import (
    ENDED,
    ENTROPY,
    KL_EXACT,
    KL_EXACT_TOKEN,
    KL_K1,
    KL_K1_TOKEN,
    KL_K3,
    KL_K3_TOKEN,
    LENGTH,
    TOXICITY,
)
from alignkit.evaluation.estimates import Change, Estimate
from alignkit.evaluation.variety import variety

PER_TOKEN: Mapping[str, str] = {KL_K1: KL_K1_TOKEN, KL_K3: KL_K3_TOKEN, KL_EXACT: KL_EXACT_TOKEN}
"""The name of a KL a sample, and that of the same a token."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSamples:
    """M >= 1 samples of one prompt by one model; M is the same for all prompts."""

    texts: tuple[str, ...]
    """M."""
    tokens: tuple[int, ...]
    """M >= 1 each, the token that ends a sample included."""
    ended: tuple[bool, ...]
    """M: whether a sample ended by itself and was not cut."""
    sums: Mapping[str, tuple[float, ...]]
    """M nats by name, each summed over the tokens of a sample: see `alignkit.evaluation.token_sums.SampleReader`."""
    toxicity: tuple[float, ...] | None = None
    """M scores, higher is less toxic; None where nobody scores."""


Samples = Sequence[PromptSamples]
"""Of one model, by prompt."""


def divergences(samples: Samples) -> dict[str, Estimate]:
    """KL(model | reference) from samples of the model, by the name of each estimate.

        a sample: mean over samples of the sum over its tokens          a token: sum over all tokens / number of all tokens

    Errors are those of prompts drawn anew; samples of one prompt are not independent. A mean a token is a ratio of two sums, because
    long samples have more tokens: see `Estimate.of_ratio`.
    """
    estimates: dict[str, Estimate] = {}
    for name in (name for name in PER_TOKEN if name in samples[0].sums):
        estimates[name] = Estimate.of_mean([_mean(one.sums[name]) for one in samples])
    for name in tuple(estimates):
        estimates[PER_TOKEN[name]] = _per_token(samples, name)
    return estimates


def sample_changes(before: Samples, after: Samples, *, toxicity: str | None) -> dict[str, Change]:
    """Everything that is said of the samples of each model by themselves; `before` are those of the reference, of the same prompts.

    `toxicity` is the name of the scorer whose scores samples have.
    """
    measures: dict[str, Callable[[Samples], Estimate]] = {
        LENGTH: lambda samples: Estimate.of_mean([_mean(one.tokens) for one in samples]),
        ENDED: lambda samples: Estimate.of_mean([_mean(one.ended) for one in samples]),
        ENTROPY: lambda samples: _per_token(samples, ENTROPY),
    }
    changes = {name: Change(before=measure(before), after=measure(after)) for name, measure in measures.items()}
    varieties = [variety([one.texts for one in samples]) for samples in (before, after)]
    changes |= {name: Change(before=varieties[0][name], after=varieties[1][name]) for name in varieties[0]}
    if toxicity is not None:
        changes[TOXICITY + toxicity] = Change(before=_mean_toxicity(before), after=_mean_toxicity(after))
    return changes


def _per_token(samples: Samples, name: str) -> Estimate:
    return Estimate.of_ratio([sum(one.sums[name]) for one in samples], [sum(one.tokens) for one in samples])


def _mean_toxicity(samples: Samples) -> Estimate:
    return Estimate.of_mean([_mean(one.toxicity or ()) for one in samples])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
