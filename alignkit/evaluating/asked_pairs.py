"""Pairs of answers that people compared, as a judge is shown them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from alignkit.assembly import say
from alignkit.data.encoding import Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.data.question_rows import has_rows, read_questions
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluation.sampled_questions import in_proportion
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation.tasks.task import Task
from alignkit.evaluation_settings import JudgeAgreementSettings
from alignkit.judges.judge import Candidates


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AskedPair:
    """A pair of answers as the judge is shown it."""

    question: Question
    candidates: Candidates
    """Two, in an order that goes by their texts: which one people prefer does not follow from it."""
    preferred: int
    """Place of the one that people prefer."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of both answers, ends included."""
        return tuple(map(len, self.candidates.example.completion_ids))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AskedTask:
    """A benchmark of pairs."""

    name: str
    task: Task
    pairs: Sequence[AskedPair]
    counts: Mapping[str, int]
    """`rows` read, pairs left out by reason, `trimmed_prompts`."""


def read_pairs(evaluation: JudgeAgreementSettings) -> Iterator[tuple[str, Task, list[Question], Counter[str]]]:
    """The pairs of each task, as many as are asked; of a folder the tasks that it has.

    Raises:
        UserError: when there are none, or a task asks something else.
    """
    tasks = {name: find_task(name, "evaluation.tasks", listed=None) for name in dict.fromkeys(evaluation.tasks)}
    there = {name: task for name, task in tasks.items() if evaluation.path is None or has_rows(task, evaluation.path, train=False)}
    if missing := [name for name in tasks if name not in there] if there else []:
        say(f"left out: {', '.join(missing)} (no rows in {evaluation.path})")
    for name, task in (there or tasks).items():
        read = read_questions(task, name, evaluation.path, train=False, where="evaluation.path")
        if any(len(question.candidates) != 2 or len(question.correct) != 1 for question in read.questions):
            raise UserError(f"evaluation.tasks: {name} asks about more than two answers. Choose a benchmark of pairs, such as llmbar.")
        yield name, task, in_proportion(read.questions, evaluation.limit), read.counts


def ask(name: str, task: Task, questions: Sequence[Question], counts: Counter[str], encoder: Encoder) -> AskedTask:
    """Pairs in the order in which they are shown. Raises UserError when none of them can be encoded."""
    shown = [in_order_of_texts(question) for question in questions]
    examples = {place: PreferenceExample(prompt=one.prompt, completions=texts) for place, (one, texts, _) in enumerate(shown)}
    pairs = []
    for example in encoder.encode_all(examples):
        question, texts, preferred = shown[example.key]
        candidates = Candidates(prompt=question.prompt, completions=texts, example=example)
        pairs.append(AskedPair(question=question, candidates=candidates, preferred=preferred))
    if not pairs:
        account = ", ".join(f"{reason} {count}" for reason, count in encoder.report.dropped.items())
        raise UserError(f"evaluation.tasks: no pair of {name} can be encoded ({account}).")
    left_out = Counter(encoder.report.dropped)
    return AskedTask(name=name, task=task, pairs=pairs, counts={**(counts + left_out), "trimmed_prompts": encoder.report.trimmed_prompts})


def in_order_of_texts(question: Question) -> tuple[Question, tuple[str, ...], int]:
    """A question with both answers, and the place of the right one, which is each for half of all questions: agreement between judges is
    measured against what chance would bring, and were the right one always first, saying so would be chance."""
    (right,) = question.correct
    preferred = int(question.digest, 16) % 2
    texts = question.texts[right], question.texts[1 - right]
    return question, texts if preferred == 0 else texts[::-1], preferred


def terminator_of(asked: Sequence[AskedTask], encoder: Encoder) -> int:
    """The token that ends all answers.

    Raises:
        UserError: when some prompts are texts and others dialogues, whose answers end otherwise.
    """
    ends = {
        encoder.render(PreferenceExample(prompt=one.candidates.prompt, completions=()))[2]: own.name for own in asked for one in own.pairs
    }
    if len(ends) > 1:
        raise UserError(
            f"evaluation.tasks: {' and '.join(ends.values())} hold texts and dialogues, which end otherwise. Evaluate them apart."
        )
    return next(iter(ends))
