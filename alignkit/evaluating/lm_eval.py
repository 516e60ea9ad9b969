"""`kind: lm_eval`: tasks of EleutherAI's lm-evaluation-harness, asked and measured by the harness itself."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignkit.assembly import load_backbone, say
from alignkit.errors import UserError
from alignkit.evaluating.harness_tasks import HarnessTasks, check_installed, loaded_tasks
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluation_settings import EvaluateSettings, LmEvalSettings
from alignkit.hardware import device_kind
from alignkit.launching.output import output_in
from alignkit.models.freezing import freeze
from alignkit.models.loading import check_fit, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.reference import fingerprint
from alignkit.models.texts import CHAT
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.summary import number

LOG = "lm_eval.log"
"""Warnings of the harness, where there are any: prompts that were cut, examples that were not there."""
RESAMPLES = 1000
"""Bootstrap samples of each standard error that has no closed form; the harness's own 100,000 take minutes for a number beside a number."""
LARGEST_SEED = 2**32
"""Of NumPy."""
TOLD = (
    *("results", "groups", "group_subtasks", "n-samples", "n-shot", "versions", "higher_is_better", "configs", "config"),
    *("lm_eval_version", "transformers_version", "max_length"),
)
"""What of the harness's document is kept; the rest is about the machine, or is in `samples.jsonl`."""
UNFILTERED = "none"
"""The filter that leaves answers as they are."""


def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> Outcome:
    """Have the harness ask the model. Writes `samples.jsonl`, a line a row and filter.

    Dialogues are written by the model's chat template where `dataset.format=chat`, or where the run at `model.path` was trained so;
    else prompts are plain text, as in published results.

    Raises:
        UserError: when the harness, a task, its data or the model cannot be had or do not fit together.
    """
    evaluation = own.evaluation
    assert isinstance(evaluation, LmEvalSettings)
    check_installed()
    path = locate("model.path", settings.model.path)
    config, tokenizer = load_config("model.path", path), load_tokenizer("model.path", path)
    check_fit("model.path", config, tokenizer, 0)
    if settings.dataset.format == CHAT and tokenizer.chat_template is None:
        raise UserError("dataset.format = 'chat': the tokenizer has no chat template. Try dataset.format=text.")
    with ExitStack() as stack:
        with muted(run.path / LOG):
            harness = stack.enter_context(loaded_tasks(evaluation, settings.allow_code))
        for name, task in harness.tasks.items():
            rows = len(task.eval_docs)
            say(f"{name}: {rows if evaluation.limit is None else min(rows, evaluation.limit)} of {rows} rows")
        backbone = freeze(load_backbone(settings, "model.path", path))
        facts: dict[str, Scalar] = {"fingerprint": fingerprint(backbone)}
        device = torch.device(device_kind(settings.hardware.accelerator))
        with muted(run.path / LOG):
            found = ask(harness, wrapped(backbone.to(device).lm, tokenizer, settings), settings, evaluation)
    write(run.samples, found["samples"])
    return outcome_of(found, facts)


@contextmanager
def muted(log: Path) -> Iterator[None]:
    """Keep off the terminal what the harness prints and draws; its warnings go to a file."""
    logger = logging.getLogger("lm_eval")
    handler = logging.FileHandler(log, encoding="utf-8", delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with output_in(Path(os.devnull)), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        handler.close()


def wrapped(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: RunSettings) -> Any:
    """The model as the harness knows it, in the run's number format, its softmax in float32.

    Its batches hold at most `batch.tokens` positions by their longest request: the harness asks a model how many sequences fit, and
    would try that out.
    """
    from lm_eval.models.huggingface import HFLM

    class BoundedHFLM(HFLM):  # type: ignore[misc]
        def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
            longest: int = self.max_length
            if requests:
                _, context, continuation = requests[pos]
                longest = min(longest, len(context) + len(continuation))
            return max(1, settings.batch.tokens // longest)

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of models that are loaded already
    try:
        return BoundedHFLM(
            pretrained=lm,
            tokenizer=tokenizer,
            batch_size="auto",
            mixed_precision_dtype=torch.bfloat16 if settings.precision.lightning == "bf16-mixed" else None,
            softmax_dtype=torch.float32,
            trust_remote_code=False,
        )
    finally:
        logger.setLevel(level)


def ask(harness: HarnessTasks, model: Any, settings: RunSettings, evaluation: LmEvalSettings) -> dict[str, Any]:
    """The harness's own document, as plain data."""
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    seed = settings.seed % LARGEST_SEED
    found = simple_evaluate(
        model=model,
        tasks=harness.asked,
        task_manager=harness.manager,
        num_fewshot=evaluation.shots,
        batch_size="auto",
        limit=evaluation.limit,
        bootstrap_iters=RESAMPLES,
        apply_chat_template=settings.dataset.format == CHAT,
        log_samples=True,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
        confirm_run_unsafe_code=False,
    )
    plain: dict[str, Any] = json.loads(json.dumps(found, default=handle_non_serializable))
    return plain


def write(file: Path, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A line a row of a task and a filter: the row's place among all, what was right, what was answered and what that is worth.

    Of rows with choices, `log_probs` holds log p(choice | prompt) of each in nats and `greedy` whether its tokens were the likeliest ones;
    of others, `responses` holds what the filter made of the answer.
    """
    with file.open("w", encoding="utf-8") as lines:
        for task, rows in samples.items():
            for row in rows:
                told = {name: row[name] for name in row["metrics"]}
                kept = {"task": task, "doc_id": row["doc_id"], "doc_hash": row["doc_hash"], "filter": row["filter"]}
                line = {**kept, "target": row["target"], **answered(row["filtered_resps"]), **told}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def answered(responses: Sequence[Any]) -> dict[str, Any]:
    """What a model said of a row."""
    if all(isinstance(one, list) and len(one) == 2 and isinstance(one[0], float) and isinstance(one[1], bool) for one in responses):
        return {"log_probs": [logp for logp, _ in responses], "greedy": [greedy for _, greedy in responses]}
    return {"responses": list(responses)}


def outcome_of(found: Mapping[str, Any], facts: Mapping[str, Scalar]) -> Outcome:
    """The harness's document as what an evaluation leaves."""
    by_task: Mapping[str, Mapping[str, Any]] = found["results"]
    results: dict[str, Scalar] = {**facts}
    for task, measured in by_task.items():
        results |= {f"{task}/{name}": value for name, value in flat(measured)}
        results[f"{task}/rows"] = measured.get("sample_len")
    return Outcome(results=results, document={**facts, **{key: found[key] for key in TOLD if key in found}}, table=table_of(found))


def flat(measured: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`acc`, `acc_stderr`, `exact_match/strict-match`: names that the harness spells `acc,none` and `exact_match,strict-match`."""
    for key, value in measured.items():
        metric, comma, filtered = key.partition(",")
        if comma and isinstance(value, (int, float)):  # where there is no standard error it says N/A
            yield metric if filtered == UNFILTERED else f"{metric}/{filtered}", value


def table_of(found: Mapping[str, Any]) -> Table:
    """A line a metric of a task."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("task", "version", "rows", "shots", "metric", "value", "stderr"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for task, measured in found["results"].items():
        values = dict(flat(measured))
        about: Iterable[object] = (task, found["versions"].get(task), measured.get("sample_len"), found["n-shot"].get(task))
        for name, value in values.items():
            metric, slash, filtered = name.partition("/")
            if metric.endswith("_stderr"):
                continue
            table.add_row(*map(Text, map(number, (*about, name, value, values.get(f"{metric}_stderr{slash}{filtered}")))))
            about = ("", "", "", "")
    return table
