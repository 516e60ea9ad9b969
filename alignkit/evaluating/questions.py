"""`kind: questions`: benchmarks that ask which candidate is right, answered by every scorer out of one forward pass."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import torch
from transformers import PreTrainedTokenizerBase

from alignkit.assembly import load_backbone, plan_packing, say
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample
from alignkit.data.question_encoding import EncodedQuestion, numbered
from alignkit.data.question_rows import Questions, has_rows, read_questions
from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.question_answers import QuestionAnswers
from alignkit.evaluating.question_table import outcome_of
from alignkit.evaluating.scorers import scorers_of
from alignkit.evaluation.asked import Asked, ask
from alignkit.evaluation.grading import Graded, grade
from alignkit.evaluation.scoring import OTHER, QuestionScorer, ScoredQuestion
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation.tasks.task import Task
from alignkit.evaluation_settings import ANSWERS, IMPLICIT, EvaluateSettings, QuestionsSettings
from alignkit.generation.answering import products, surroundings_of
from alignkit.generation.config import heads_of, run_at
from alignkit.hardware import device_kind
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze
from alignkit.models.heads import Heads
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import fingerprint
from alignkit.rollout_assembly import open_scorer
from alignkit.rollout_settings import NO_SCORER
from alignkit.run_dir import RunDir
from alignkit.scorers.answer_tokens import same_tokens
from alignkit.scorers.implicit import beta_of, reference_of
from alignkit.scorers.saved_heads import SavedHead, saved_head
from alignkit.scorers.scorer import Answers, Scorer
from alignkit.settings import RunSettings

LONGEST = 2**30
"""Tokens of a candidate with its prompt, for models without a limit."""
AT_ONCE = 64
"""Questions that a scorer which is no part of the model is asked together."""


def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> Outcome:
    """Ask every question of every task.

    Raises:
        UserError: when rows, the model or a scorer cannot be had or do not fit together.
    """
    evaluation = own.evaluation
    assert isinstance(evaluation, QuestionsSettings)
    names = scorers_of(own, run_at(settings.model.path), with_reference=settings.reference.path is not None)
    against = None if own.against is None else QuestionAnswers.read(Path(own.against).expanduser() / ANSWERS)
    rows = dict(read_tasks(evaluation))
    path = locate("model.path", settings.model.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, 0)
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    # Before weights: what cannot be encoded is known now.
    asked = [
        ask(name, task, read, Encoder(tokenizer, format=settings.dataset.format, max_length=positions, overflow="trim"), "evaluation.tasks")
        for name, (task, read) in rows.items()
    ]
    if against is not None:
        against.check_shared({one.name: one.questions for one in asked}, names)
    backbone = freeze(load_backbone(settings, "model.path", path))
    device = torch.device(device_kind(settings.hardware.accelerator))
    model = build_scorer(settings, names, backbone, tokenizer, device)
    other = open_other(settings, backbone, tokenizer, device)
    backbone.to(device)
    graded: dict[str, dict[str, Graded]] = {}
    with (run.path / ANSWERS).open("w", encoding="utf-8") as file, products(settings, device):
        for one in asked:
            begun = time.perf_counter()
            scored = list(model(one.encoded)) if other is None else list(by_other(one, other, tokenizer))
            graded[one.name] = {name: grade(one.name, one.questions, scored, name) for name in names}
            write(file, one, scored, names)
            say(f"{one.name}: {len(one.questions)} questions in {time.perf_counter() - begun:.1f} s")
    facts = {"fingerprint": fingerprint(backbone)}
    return outcome_of(asked, graded, evaluation, seed=settings.seed, against=against, facts=facts)


def read_tasks(evaluation: QuestionsSettings) -> Iterator[tuple[str, tuple[Task, Questions]]]:
    """The rows of each task; of a folder those that it has. Raises UserError where there are none."""
    tasks = {name: find_task(name, "evaluation.tasks", listed=evaluation.listed) for name in dict.fromkeys(evaluation.tasks)}
    there = {name: task for name, task in tasks.items() if evaluation.path is None or has_rows(task, evaluation.path, train=False)}
    if missing := [name for name in tasks if name not in there] if there else []:
        say(f"left out: {', '.join(missing)} (no rows in {evaluation.path})")
    for name, task in (there or tasks).items():
        yield name, (task, read_questions(task, name, evaluation.path, train=False, where="evaluation.path", limit=evaluation.limit))


def build_scorer(
    settings: RunSettings, names: Sequence[str], backbone: Backbone, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> QuestionScorer:
    """The model with those of its heads that are asked, and its reference where the implicit reward is.

    Raises:
        UserError: when one of them cannot be had.
    """
    run = run_at(settings.model.path)
    saved = {} if run is None else {name: saved_head(run.path, name, "model") for name in names if name in heads_of(run)}
    reference, beta = None, 1.0
    if IMPLICIT in names:
        options = settings.scorer.options if settings.scorer.name == IMPLICIT else {}
        began = settings.reference.path or options.get("reference") or (None if run is None else reference_of(run))
        if began is None:
            raise UserError("reference.path is missing: the implicit reward is measured against it. Type reference.path=DIR.")
        other = locate("reference.path", began)
        if not same_tokens(tokenizer, load_tokenizer("reference.path", other)):
            raise UserError(f"reference.path = {other!r}: its tokenizer is another one than that of the model, so that log-probs differ.")
        model = freeze(load_backbone(settings, "reference.path", other)).to(device)
        reference = (model, plan_packing(settings.batch, model).for_looking())
        beta = options.get("beta") or strength(run)
    return QuestionScorer(
        backbone=backbone,
        heads=joined(backbone, saved).to(device, backbone.lm.dtype),
        packing=plan_packing(settings.batch, backbone).for_looking(),
        device=device,
        normalizations={name: head.normalization for name, head in saved.items()},
        reference=reference,
        beta=beta,
    )


def strength(run: RunDir | None) -> float:
    """`loss.beta` of a run, and 1 where it has none: which candidate is best is the same under any."""
    try:
        return 1.0 if run is None else beta_of(run)
    except UserError:
        return 1.0


def joined(backbone: Backbone, saved: Mapping[str, SavedHead]) -> Heads:
    """Several heads as one module."""
    heads = Heads(backbone.hidden_width, {})
    for name, head in saved.items():
        heads[name] = head.load().head(name)
    return heads


def open_other(settings: RunSettings, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Scorer | None:
    """A scorer that is no part of the model, where `scorer=` names one."""
    if settings.scorer.name in (NO_SCORER, IMPLICIT):
        return None
    return open_scorer(settings.scorer, settings, surroundings_of(settings, backbone, tokenizer, device))


def by_other(one: Asked, scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> Iterator[ScoredQuestion]:
    """What a scorer of answers says of the candidates, in their order."""
    pairs = list(zip(one.questions, one.encoded, strict=True))
    for start in range(0, len(pairs), AT_ONCE):
        # Answers of one call end alike; a dialogue through a template and a plain text do not.
        for terminator, together in itertools.groupby(pairs[start : start + AT_ONCE], key=lambda pair: pair[1].terminator):
            yield from _together(list(together), scorer, tokenizer, terminator)


def _together(
    pairs: Sequence[tuple[Question, EncodedQuestion]], scorer: Scorer, tokenizer: PreTrainedTokenizerBase, terminator: int
) -> Iterator[ScoredQuestion]:
    examples, owners = numbered([encoded for _, encoded in pairs])
    questions = {encoded.key: question for question, encoded in pairs}
    prompts = tuple(_prompt_text(questions[owners[example.key]], example, tokenizer) for example in examples)
    completions = tuple(text for question, _ in pairs for text in question.texts)
    answers = Answers(examples=tuple(examples), prompts=prompts, completions=completions, terminator=terminator)
    said = iter(scorer(answers).total.tolist())
    for question, encoded in pairs:
        scores = tuple(next(said) for _ in question.candidates)
        yield ScoredQuestion(key=encoded.key, scores={OTHER: scores}, lengths=tuple(end - start for start, end in encoded.spans))


def _prompt_text(question: Question, example: EncodedExample, tokenizer: PreTrainedTokenizerBase) -> str:
    """The question's own where it is text: among the prompt's ids may be those of what is given, or of how all candidates begin."""
    if isinstance(question.prompt, str):
        return question.prompt
    return str(tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True))


def write(file: TextIO, one: Asked, scored: Sequence[ScoredQuestion], names: Sequence[str]) -> None:
    """A line a question: what it was and what was said of its candidates; on disk when this returns."""
    for question, said in zip(one.questions, scored, strict=True):
        row = {
            "task": one.name,
            "question": question.digest,
            "group": question.group,
            "correct": list(question.correct),
            "scores": {name: list(said.by(name)) for name in names},
            "tokens": list(said.lengths),
        }
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
