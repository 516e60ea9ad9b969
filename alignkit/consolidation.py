"""From a checkpoint to the folders that other tools load, in one process and without the data."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from alignkit.checkpoint_weights import CheckpointWeights
from alignkit.errors import UserError
from alignkit.models.adapters import add_adapters, has_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.export import PREDICTING, check_adapter_export, save_adapter, save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.loading import base_of, load_config, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.skeleton import skeleton
from alignkit.models.texts import Texts, save_texts
from alignkit.modules.rollout_objective import RolloutObjective
from alignkit.objectives import build_objective, formula
from alignkit.run_dir import RunDir, Scalar, read_jsonl, start_and_end
from alignkit.settings import RunSettings

TRUNK = "backbone."
HEADS = "heads."
VALUE_TRUNK = "value_trunk."
ADAPTER = ".lora_"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Consolidated:
    """What was written, as a card needs it."""

    tokenizer: PreTrainedTokenizerBase
    formula: str
    normalized: tuple[str, ...]
    """Heads that a finished run would have normalised, for which samples are needed."""


def consolidate(
    run: RunDir, settings: RunSettings, checkpoint: CheckpointWeights, texts: Texts | None, *, as_adapter: bool
) -> Consolidated:
    """Write `model/` and, where a run saves them, its heads and `texts.json`, as the run itself would at this step.

    `as_adapter` keeps adapters apart from the base model; without adapters it must be false.

    Raises:
        UserError: when the base model's configuration is gone, weights do not fit, or the run did not note how texts are written.
    """
    path = locate("model.path", settings.model.path)
    if as_adapter:
        check_adapter_export(path)
    tokenizer = load_tokenizer("model.path", path)
    objective, head_settings = build_objective(settings.loss, settings.allow_code)
    backbone = build_backbone(settings, path, checkpoint.part(TRUNK), adapters_alone=as_adapter)
    run.path.mkdir(parents=True, exist_ok=True)
    (save_adapter if as_adapter else save_model)(run.model, backbone, tokenizer)
    if texts is not None:
        save_texts(run.texts, texts)
    # A value head on a trunk of its own says nothing of this model.
    if head_settings and not checkpoint.part(VALUE_TRUNK):
        if texts is None:
            raise UserError(
                f"{run.path}: the run holds no {run.texts.name}, which says how completions end. It was begun by an earlier alignkit, or "
                "stopped before its first step; resume it: python -m alignkit.train resume=RUN"
            )
        heads = Heads(backbone.hidden_width, head_settings)
        fill(heads, checkpoint.part(HEADS), "the heads")
        reads = PREDICTING if isinstance(objective, RolloutObjective) else None
        save_heads(run, heads, terminator=texts.terminator_id, tokenizer=tokenizer, reads=reads)
    return Consolidated(
        tokenizer=tokenizer,
        formula=formula(settings.loss.name, objective),
        normalized=tuple(name for name, head in head_settings.items() if head.normalize > 0),
    )


def build_backbone(settings: RunSettings, path: str, weights: Mapping[str, Tensor], *, adapters_alone: bool) -> Backbone:
    """The language model as it was trained, out of its configuration and the checkpoint's weights alone. With `adapters_alone` the base
    model's weights stay unknown: its own folder has them.

    Raises:
        UserError: when they do not fit.
    """
    source = base_of("model.path", path) or path
    backbone = skeleton(path, load_config("model.path", path))
    backbone.lm.name_or_path = path
    with contextlib.suppress(OSError):  # where none was saved with the model, transformers has made one of its configuration
        backbone.lm.generation_config = GenerationConfig.from_pretrained(source)
    if settings.model.adapter is not None:
        add_adapters(backbone, settings.model.lora)
    given = {name: tensor for name, tensor in weights.items() if ADAPTER in name} if adapters_alone else weights
    fill(backbone, given, "the model", only=ADAPTER if adapters_alone else "")
    assert has_adapters(backbone.lm) or not adapters_alone
    if not adapters_alone:
        backbone.lm.tie_weights()
    return backbone.eval()


def fill(module: nn.Module, weights: Mapping[str, Tensor], what: str, *, only: str = "") -> None:
    """Give a module a checkpoint's weights, all of those with `only` in their names, whatever type they have.

    Raises:
        UserError: when any is missing, or of another shape.
    """
    try:
        report = module.load_state_dict(dict(weights), strict=False, assign=True)
    except RuntimeError as error:
        raise UserError(f"{what} of config.yaml and of the checkpoint differ: {str(error).partition(chr(10))[2].strip()[:200]}") from None
    missing = [name for name in report.missing_keys if only in name]
    if missing or report.unexpected_keys:
        name = (missing or report.unexpected_keys)[0]
        raise UserError(f"{what} of config.yaml and of the checkpoint differ, e.g. in {name}.")


def measured_until(run: RunDir, step: int) -> dict[str, Scalar]:
    """Held-out metrics of a run's first validation, and of the newest one that is not after a step, under the names of `results.json`."""
    if not run.metrics.is_file():
        return {}
    return start_and_end(row for row in read_jsonl(run.metrics) if int(row["step"] or 0) <= step)
