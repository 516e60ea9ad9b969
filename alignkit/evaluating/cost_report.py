"""What alignment took, as an evaluation leaves it: a tree with intervals, a flat list, and a table to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from rich import box
from rich.table import Table
from rich.text import Text

from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.question_table import flat_interval
from alignkit.evaluation.cost_measures import cost_measure
from alignkit.evaluation.estimates import Change, Estimate
from alignkit.run_dir import Scalar, jsonable
from alignkit.summary import number

STANDARD_ERROR = "_standard_error"
"""Suffix of the standard error of a divergence."""
SIDES = ("before", "after", "change")
"""Fields of `Change`."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CostReport:
    """All that was measured."""

    divergences: Mapping[str, Estimate]
    """Between the two models, by name in `alignkit.evaluation.cost_measures`."""
    changes: Mapping[str, Change]
    """Of numbers that each of them has by itself, by name."""
    facts: Mapping[str, Scalar]
    """Counts and fingerprints."""

    @property
    def outcome(self) -> Outcome:
        """The same, three times."""
        return Outcome(results=self.results, document=self.document, table=self.table)

    @property
    def results(self) -> dict[str, Scalar]:
        """Flat: `kl/k1` with its standard error, `samples/length/before`, `/after` and `/change`, each with the ends of its interval."""
        flat: dict[str, Scalar] = {}
        for name, estimate in self.divergences.items():
            flat |= {**dict(flat_interval(name, estimate.interval)), name + STANDARD_ERROR: estimate.standard_error}
        for name, change in self.changes.items():
            for side in SIDES:
                flat |= dict(flat_interval(f"{name}/{side}", getattr(change, side).interval))
        return {**flat, **self.facts}

    @property
    def document(self) -> dict[str, object]:
        """A tree: what each number is, its standard error and its interval."""
        changes = {name: {side: spelt_out(getattr(change, side)) for side in SIDES} for name, change in self.changes.items()}
        return {
            **self.facts,
            "divergences": {name: described(name) | spelt_out(estimate) for name, estimate in self.divergences.items()},
            "changes": {name: described(name) | sides for name, sides in changes.items()},
        }

    @property
    def table(self) -> Table:
        """A line a measure."""
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("", "before", "after", "change", "± 95 %"):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for name, estimate in self.divergences.items():
            table.add_row(Text(words(name)), "", "", number(estimate.value), half_width(estimate))
        for name, change in self.changes.items():
            cells = (number(getattr(change, side).value) for side in SIDES)
            table.add_row(Text(words(name)), *cells, half_width(change.change))
        for name, fact in self.facts.items():
            if isinstance(fact, int):
                table.add_row(Text(name), "", number(fact), "", "")
        return table


def described(name: str) -> dict[str, object]:
    """What a number is, as JSON has it."""
    measure = cost_measure(name)
    return {"meaning": measure.meaning, "unit": measure.unit, "better": measure.better}


def spelt_out(estimate: Estimate) -> dict[str, object]:
    """A number with its uncertainty, null for what is not known."""
    interval = estimate.interval
    values = {"value": interval.value, "standard_error": estimate.standard_error, "low": interval.low, "high": interval.high}
    return {name: jsonable(value) for name, value in values.items()}


def words(name: str) -> str:
    """A number's name and unit for people."""
    measure = cost_measure(name)
    return f"{measure.meaning}, {measure.unit}" if measure.unit == "nats" else measure.meaning


def half_width(estimate: Estimate) -> str:
    """Of the 95 % interval; nothing where there is none."""
    interval = estimate.interval
    return number((interval.high - interval.low) / 2) if interval.is_known else ""
