"""`dataset=tasks`: benchmarks as training data: a right answer before a wrong one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import final

from alignkit.data.dropping import check_dropped, fault
from alignkit.data.examples import PreferenceExample
from alignkit.data.holdout import check_share, content_digest, hold_out, prompt_key
from alignkit.data.parts import check_kinds
from alignkit.data.question_rows import has_rows, read_questions
from alignkit.data.source import LoadedExamples, LoadingSource
from alignkit.errors import UserError, check_choice
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation.tasks.task import Task
from alignkit.settings import DatasetSettings

FLAT = "flat"
ELBOW = "elbow"
NATURAL = "natural"
ELBOW_SIZE = 1_000_000
"""The authors' (repository Avelina9X/direct-preference-heads)."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Tasks(LoadingSource):
    """The training rows of benchmarks: on pairs a right candidate before one wrong one, drawn uniformly; on rankings a right one before all
    wrong ones; for imitation the right one. The data of direct preference heads (arXiv:2405.20053).

    Each task is held out for itself, whole prompts at a time; rows that `alignkit.evaluate` reports are not read.
    """

    tasks: list[str]
    """`hellaswag` is the one public class of `alignkit/evaluation/tasks/hellaswag.py`. With `dataset.path` those without training rows
    there are left out, and it is an error when none is left."""
    mix: str
    """How often an epoch visits the tasks: `flat`: all equally often, as the authors do; `elbow`: by their size up to a million; `natural`:
    each example once. An epoch has as many examples as there are, and a task's are repeated or drawn by content."""
    listed: bool | None
    """Whether prompts list the candidates by letters where a task can do so; null is each task's own choice."""

    def __post_init__(self) -> None:
        check_choice("dataset.mix", self.mix, (FLAT, ELBOW, NATURAL))
        if not self.tasks:
            raise UserError("dataset.tasks = []; must name a benchmark. Try dataset.tasks=[arc_easy].")
        for name in self.tasks:
            find_task(name, "dataset.tasks", listed=self.listed)

    def load(self, settings: DatasetSettings) -> LoadedExamples:
        for key, value in (("hub", settings.hub), ("validation_path", settings.validation_path)):
            if value is not None:
                raise UserError(
                    f"dataset.{key} = {value} has no effect: each task knows its place. Leave it out, or type dataset.path=DIR."
                )
        tasks = {name: find_task(name, "dataset.tasks", listed=self.listed) for name in dict.fromkeys(self.tasks)}
        there = {name: task for name, task in tasks.items() if has_rows(task, settings.path, train=True)}
        if not there:
            first = next(iter(tasks))
            read_questions(tasks[first], first, settings.path, train=True, where="dataset.path")  # which says what is missing
        counts: Counter[str] = Counter()
        sides = {name: self._one(name, task, settings, counts) for name, task in there.items()}
        kinds = {name: isinstance(validation[0].prompt, str) for name, (_, validation) in sides.items() if validation}
        check_kinds(kinds, settings.format, "dataset.tasks")
        held = {prompt_key(example) for _, validation in sides.values() for example in validation}
        free = {name: [one for one in train if prompt_key(one) not in held] for name, (train, _) in sides.items()}
        counts["held_out_elsewhere"] += sum(len(train) - len(free[name]) for name, (train, _) in sides.items())
        train = [example for examples in self._mixed(free).values() for example in examples]
        validation = [example for _, own in sides.values() for example in own]
        counts["tasks_without_rows"] += len(tasks) - len(there)
        return LoadedExamples(train=train, validation=validation, counts={**counts, "train": len(train), "validation": len(validation)})

    def _one(
        self, name: str, task: Task, settings: DatasetSettings, counts: Counter[str]
    ) -> tuple[list[PreferenceExample], list[PreferenceExample]]:
        """What a task trains on and what is held out of that."""
        read = read_questions(task, name, settings.path, train=True, where="dataset.path")
        examples, dropped = [], Counter[str]()
        for question in read.questions:
            example = replace(question.as_preference(), source=name)
            reason = fault(example)
            if reason is not None:
                dropped[reason] += 1
            else:
                examples.append(example)
        check_dropped(dropped, total=len(read.questions), limit=settings.max_dropped, where=f"dataset.tasks: {name}")
        counts.update(read.counts)
        counts.update(dropped)
        train, validation = hold_out(examples, settings.validation_examples)
        check_share(examples, len(validation), count=settings.validation_examples, where=f"dataset.tasks: {name}")
        return train[: settings.train_examples], validation

    def _mixed(self, free: dict[str, list[PreferenceExample]]) -> dict[str, list[PreferenceExample]]:
        """The examples of each task as often as an epoch visits them."""
        sizes = {name: len(own) for name, own in free.items() if own}
        weights = {name: 1 if self.mix == FLAT else min(size, ELBOW_SIZE) if self.mix == ELBOW else size for name, size in sizes.items()}
        visits = {name: max(1, round(sum(sizes.values()) * weight / sum(weights.values()))) for name, weight in weights.items()}
        return {name: _repeated(free[name], count) for name, count in visits.items()}


def _repeated(examples: list[PreferenceExample], count: int) -> list[PreferenceExample]:
    """So many of the examples: whole rounds, and a rest that is drawn by content."""
    rounds, rest = divmod(count, len(examples))
    by_content = sorted(range(len(examples)), key=lambda place: content_digest(examples[place]))
    return [*(examples * rounds), *(examples[place] for place in sorted(by_content[:rest]))]
