"""An evaluation from its settings to its last file."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping

import torch

from alignkit.evaluating import cost, judge_agreement, lm_eval, questions, win_rate
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluation_settings import (
    CostSettings,
    EvaluateSettings,
    EvaluationSettings,
    JudgeAgreementSettings,
    LmEvalSettings,
    QuestionsSettings,
    WinRateSettings,
)
from alignkit.generation.config import run_at
from alignkit.hardware import device_kind, keep_freed_memory, peak_memory
from alignkit.models.texts import load_texts
from alignkit.row_files import replace_text
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.summary import print_table
from alignkit.tracking import log_outcome

DOCUMENT = "evaluation.json"
MEASURED_BY: Mapping[type[EvaluationSettings], Callable[[RunSettings, EvaluateSettings, RunDir], Outcome]] = {
    QuestionsSettings: questions.evaluate,
    WinRateSettings: win_rate.evaluate,
    CostSettings: cost.evaluate,
    LmEvalSettings: lm_eval.evaluate,
    JudgeAgreementSettings: judge_agreement.evaluate,
}


def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> dict[str, Scalar]:
    """Measure, write `results.json` and `evaluation.json`, print the table and tell W&B. Returns what `results.json` holds.

    Raises:
        UserError: when the data, the model, the scorer or their combination cannot work.
    """
    started = time.perf_counter()
    keep_freed_memory()
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    settings = as_trained(settings)
    outcome = MEASURED_BY[type(own.evaluation)](settings, own, run)
    device = torch.device(device_kind(settings.hardware.accelerator))
    costs: dict[str, Scalar] = {"seconds": time.perf_counter() - started, "peak_memory_bytes": peak_memory(device)}
    results = {**outcome.results, **costs}
    document = {"evaluation": own.evaluation.name, "model": settings.model.path, **outcome.document, **costs}
    replace_text(run.path / DOCUMENT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    run.write_results(results)
    print_table(outcome.table)
    log_outcome(settings, run, own.evaluation.name, results)
    return results


def as_trained(settings: RunSettings) -> RunSettings:
    """The settings with texts written as the run at `model.path` wrote them, where `dataset.format` leaves that open."""
    run = run_at(settings.model.path)
    texts = load_texts(run.texts) if run is not None and settings.dataset.format == "auto" else None
    if texts is None:
        return settings
    return dataclasses.replace(settings, dataset=dataclasses.replace(settings.dataset, format=texts.format))
