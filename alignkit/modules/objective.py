"""An objective: a weighted sum of terms on one forward pass, and under which names it is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.forms import Form
from alignkit.metrics import ACCURACIES, LOSS
from alignkit.modules.bootstrap import bootstrap_weights
from alignkit.modules.forward import Forward
from alignkit.modules.rewards import IMPLICIT_REWARD_NAMES, REWARD_NAMES
from alignkit.modules.term import Place, Term, TermOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an objective says of one micro-batch."""

    outputs: Mapping[str, TermOutput]
    """By the terms' names."""
    weights: Mapping[str, float]
    metrics: Mapping[str, Tensor]
    """Values [*] by the name that they are logged under, without gradient; the terms' own losses among them."""

    def sum(self) -> Tensor:
        """[] weighted sum of all losses, each counted once: for whoever needs the gradient's path and not its size."""
        total: Tensor = sum(self.weights[name] * output.losses.sum() for name, output in self.outputs.items())  # type: ignore[assignment]
        return total


@final
class Objective:
    """Terms, their weights and their names."""

    def __init__(self, terms: Sequence[Term[Any]]) -> None:
        self.terms = tuple(terms)
        self._names = _names(self.terms)
        self.metric_names = tuple(name for names in self._names for name in names.values())

    def __call__(self, forward: Forward) -> Evaluation:
        """Losses and metrics of one micro-batch."""
        outputs: dict[str, TermOutput] = {}
        metrics: dict[str, Tensor] = {}
        for term, names in zip(self.terms, self._names, strict=True):
            output = resampled(term.place, term(forward), forward)
            outputs[term.place.name] = output
            values = {term.loss_name: output.losses.detach(), **output.metrics}
            metrics |= {logged: values[name] for name, logged in names.items()}
        return Evaluation(outputs=outputs, weights={term.place.name: term.place.weight for term in self.terms}, metrics=metrics)

    def loss(self, evaluation: Evaluation, step: StepBatch) -> Tensor:
        """[] the micro-batch's share of the global batch's mean: shares add up over micro-batches and ranks."""
        total: Tensor = sum(  # type: ignore[assignment]
            term.place.weight * evaluation.outputs[term.place.name].losses.sum() / max(1, step.count(term.unit, term.place.source))
            for term in self.terms
        )
        return total

    def with_total(self, means: Mapping[str, float]) -> dict[str, float]:
        """Mean values by name, with the objective's own: the weighted sum of the terms' means. A term that has seen no data is left out."""
        named = [(term.place.weight, names[term.loss_name]) for term, names in zip(self.terms, self._names, strict=True)]
        total = sum(weight * means[name] for weight, name in named if name in means)
        return {LOSS: total, **{name: value for name, value in means.items() if name != LOSS}}

    def form(self, source: str | None = None) -> Form:
        """What the data must hold for the terms that read all examples, or for those that read one part of a mixture."""
        terms = [term for term in self.terms if term.place.source in (None, source)] or list(self.terms)
        form = terms[0].form
        for term in terms[1:]:
            form = form.joined(term.form)
        return form

    @property
    def sources(self) -> set[str]:
        """The parts of a mixture that have terms of their own."""
        return {term.place.source for term in self.terms if term.place.source is not None}

    @property
    def reward_names(self) -> set[str]:
        """What terms call the values that they have, whatever these are logged under."""
        return {name for term in self.terms for name in term.metric_names}

    @property
    def needs_reference(self) -> bool:
        return any(term.needs_reference for term in self.terms)

    @property
    def needs_live_reference(self) -> bool:
        return any(term.needs_live_reference for term in self.terms)

    @property
    def needs_mismatched(self) -> bool:
        return any(term.needs_mismatched for term in self.terms)

    def values_at_reference(self) -> Mapping[str, float]:
        """By term, what each of its losses is while policy and reference are equal, where that has a closed form."""
        values = ((term.place.name, term.value_at_reference()) for term in self.terms)
        return {name: value for name, value in values if value is not None}

    def before_step(self, step: StepBatch, forward: Callable[[PackedBatch], Forward]) -> None:
        """Let every term learn what it needs to know of the whole global batch."""
        for term in self.terms:
            term.before_step(step, forward)

    def after_step(self) -> None:
        """Let every term take in what the step has shown."""
        for term in self.terms:
            term.after_step()

    def forget_step(self) -> None:
        """Let every term be as before a step that is not taken."""
        for term in self.terms:
            term.forget_step()

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, by term."""
        return {term.place.name: state for term in self.terms if (state := term.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for term in self.terms:
            if term.place.name in state:
                term.load_state(state[term.place.name])


def resampled(place: Place, output: TermOutput, forward: Forward) -> TermOutput:
    """What a term says, its losses weighed as a bootstrap of its examples asks for where it is trained on one; held-out losses stay."""
    if place.bootstrap is None or not output.losses.requires_grad:
        return output
    keys = [forward.batch.example_keys[example] for example in forward.select(place.source).examples]
    weights = bootstrap_weights(keys, seed=place.bootstrap, member=place.name)
    return replace(output, losses=output.losses * output.losses.new_tensor(weights))


def _names(terms: Sequence[Term[Any]]) -> list[dict[str, str]]:
    """For each term, its own names and those that they are logged under.

    Implicit rewards are `rewards/*` where no head has rewards of its own. A name that an earlier term has taken gets the later
    term's name in front, unless it would say the same again: log-probs of the same data, scores of the same head.
    """
    names: list[dict[str, str]] = []
    heads = any(ACCURACIES in term.metric_names for term in terms)
    plain = {} if heads else dict(zip(IMPLICIT_REWARD_NAMES, REWARD_NAMES, strict=True))
    taken: dict[str, Place] = {}
    for term in terms:
        chosen = {term.loss_name: LOSS if len(terms) == 1 else term.loss_name}
        # Of members of an ensemble, whether they are right: what they all say is what the head on all examples says.
        own = term.metric_names if term.place.bootstrap is None else [name for name in term.metric_names if name == ACCURACIES]
        for name in own:
            logged = plain.get(name, name)
            first = taken.setdefault(logged, term.place)
            if first is term.place:
                chosen[name] = logged
            elif (first.head, first.source) != (term.place.head, term.place.source) or name in IMPLICIT_REWARD_NAMES:
                chosen[name] = f"{term.place.name}/{logged}"
        names.append(chosen)
    return names
