"""`kind: judge_agreement`: a judge, or several that vote, on pairs of answers that people compared."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

import torch

from alignkit.assembly import load_backbone, say
from alignkit.data.encoding import Encoder
from alignkit.evaluating.asked_pairs import AskedPair, AskedTask, ask, read_pairs, terminator_of
from alignkit.evaluating.judge_table import outcome_of
from alignkit.evaluating.judging import judge_surroundings
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluation_settings import JUDGEMENTS, EvaluateSettings, JudgeAgreementSettings
from alignkit.generation.answering import products, surroundings_of
from alignkit.hardware import device_kind
from alignkit.judge_assembly import build_judge, name_of
from alignkit.judges.judge import Judge, Judgement
from alignkit.labelling.judged import judgement_row
from alignkit.models.freezing import freeze
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import fingerprint
from alignkit.precomputation import progress_bar
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

UNBOUNDED = 2**30
"""Tokens of a prompt with an answer, for models without a limit."""


def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> Outcome:
    """Have every pair of every task judged. Writes `judgements.jsonl`, a line a pair.

    Raises:
        UserError: when rows, the model or a judge cannot be had or do not fit together.
    """
    evaluation = own.evaluation
    assert isinstance(evaluation, JudgeAgreementSettings)
    assert own.judge is not None, "checked"
    kind = build_judge(own.judge, settings.allow_code)
    read = list(read_pairs(evaluation))
    path = locate("model.path", settings.model.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, 0)
    positions = getattr(config, "max_position_embeddings", None) or UNBOUNDED
    # Before weights: what cannot be encoded is known now.
    asked = [
        ask(name, task, questions, counts, Encoder(tokenizer, format=settings.dataset.format, max_length=positions, overflow="trim"))
        for name, task, questions, counts in read
    ]
    terminator = terminator_of(asked, Encoder(tokenizer, format=settings.dataset.format, max_length=positions, overflow="trim"))
    backbone = freeze(load_backbone(settings, "model.path", path))
    device = torch.device(device_kind(settings.hardware.accelerator))
    scoring = surroundings_of(settings, backbone, tokenizer, device)
    backbone.to(device)
    judge = kind.open(judge_surroundings(settings, scoring, tokenizer, terminator))
    judged: dict[str, list[Judgement]] = {}
    with (run.path / JUDGEMENTS).open("w", encoding="utf-8") as file, products(settings, device):
        for one in asked:
            begun = time.perf_counter()
            judged[one.name] = list(judgements(one, judge, file, settings))
            say(f"{one.name}: {len(one.pairs)} pairs in {time.perf_counter() - begun:.1f} s")
    return outcome_of(asked, judged, name_of(own.judge), {"fingerprint": fingerprint(backbone)})


@torch.no_grad()
def judgements(one: AskedTask, judge: Judge, file: TextIO, settings: RunSettings) -> Iterator[Judgement]:
    """Of all pairs, `batch.pairs` at a time, on disk as they are judged."""
    size = settings.batch.pairs
    with progress_bar(one.name, len(one.pairs), shown=settings.callbacks.progress_bar) as advance:
        for start in range(0, len(one.pairs), size):
            pairs = one.pairs[start : start + size]
            said = judge([pair.candidates for pair in pairs])
            write(file, one.name, pairs, said)
            advance(len(pairs))
            yield from said


def write(file: TextIO, task: str, pairs: Sequence[AskedPair], said: Sequence[Judgement]) -> None:
    """A line a pair: which it was, and all that was said of it; on disk when this returns."""
    for pair, judgement in zip(pairs, said, strict=True):
        row = {
            "task": task,
            "question": pair.question.digest,
            "group": pair.question.group,
            "preferred": pair.preferred,
            "tokens": list(pair.lengths),
            **judgement_row(judgement),
        }
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
