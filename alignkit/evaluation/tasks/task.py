"""What a benchmark is: where its rows are, what each of them asks, and what answers are measured by.

`evaluation.tasks=[hellaswag]` is the one public class of `alignkit/evaluation/tasks/hellaswag.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

from alignkit.data.questions import Question

NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})
NO_SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HubPlace:
    """Rows of a benchmark on the hub."""

    hub: str
    subset: str | None = None
    train: str | None = "train"
    """The split to train on; None where there is none."""
    evaluation: str = "validation"
    """The labelled split that is reported."""
    group: str = ""
    """The group of its questions, where rows do not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(ABC):
    """One benchmark."""

    PLACES: ClassVar[tuple[HubPlace, ...]]
    FOLDERS: ClassVar[tuple[str, ...]]
    """What its folder, or its file without an ending, is called in a folder of benchmarks, and the group where that has a name:
    `("glue_cola", "cola")`."""
    SPLITS: ClassVar[tuple[str, ...]] = ("validation", "dev", "test")
    """How names of files with rows to evaluate begin, the first kind that is there is taken."""
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]]
    """The columns of a row, once for each form that the benchmark comes in."""
    MEASURES: ClassVar[tuple[str, ...]] = ("accuracy",)
    """Names in `alignkit.evaluation.measures.MEASURES`; the score of the task is their mean, as in GLUE."""
    WEIGHTS: ClassVar[Mapping[str, float]] = NO_WEIGHTS
    """Of groups in the task's score, which is their weighted mean then; empty: all questions count the same."""
    SECTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = NO_SECTIONS
    """Sets of groups that are reported too, by name; they may overlap. A section is to its groups what the task is to all of them: their
    mean by `WEIGHTS`, over all their questions where there are none."""
    BESIDE: ClassVar[tuple[str, ...]] = ()
    """Measures that are told beside the score and are no part of it."""
    LISTS: ClassVar[bool | None] = None
    """Whether prompts list the candidates by letters, which is the case where `listed` does not say; None: they cannot."""

    listed: bool | None = None
    """List the candidates in the prompt and ask for "A. text" (facts of arXiv:2405.20053), or ask for the text alone; None is `LISTS`.
    Tasks that cannot list pay no heed."""

    @abstractmethod
    def to_example(self, row: Mapping[str, object]) -> Question:
        """The question of one row.

        Raises:
            RowError: when the row is not in one of the benchmark's forms.
            DroppedRow: when it has no label, or is of no use otherwise.
        """

    def missing(self, found: Collection[str]) -> tuple[str, ...]:
        """Columns that `to_example` needs and a table lacks, by the form that comes nearest."""
        gaps = [tuple(column for column in form if column not in found) for form in self.COLUMNS]
        return min(gaps, key=len)

    @property
    def lists(self) -> bool:
        """Whether prompts list the candidates."""
        return bool(self.LISTS if self.listed is None or self.LISTS is None else self.listed)
