"""The model card of a run: `model/README.md`, with metadata for the hub, out of what the run directory already says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase

from alignkit.loss_settings import HeadSettings
from alignkit.markdown import code as inline
from alignkit.markdown import escaped, fenced
from alignkit.metrics import VALIDATION
from alignkit.models.card_code import sampling_code, scoring_code
from alignkit.models.card_sections import (
    certificate_section,
    data_section,
    hub_data_sets,
    name_of_model,
    objective_section,
    results_section,
    shown,
    versions_section,
)
from alignkit.models.export import PREDICTING, head_settings
from alignkit.models.location import is_here
from alignkit.models.texts import Texts, load_texts
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

UNKNOWN_LICENSE = "unknown"
"""The hub's word."""
HERE = "."
BESIDE = ".."
"""Of a run, heads lie beside the folder of the model."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a card says."""

    settings: RunSettings
    results: Mapping[str, Scalar]
    """What `results.json` holds; of a run that never came to it, as much of that as is known."""
    heads: Mapping[str, Mapping[str, Any]]
    """What `heads.json` holds; empty where there are none."""
    texts: Texts | None
    """None where nobody wrote down how texts are written."""
    tokenizer: PreTrainedTokenizerBase
    license: str = UNKNOWN_LICENSE
    """One of the hub's names of licenses."""
    repository: str | None = None
    """`owner/name` on the hub, where heads lie beside the model's files; None in a run directory."""
    adapter: bool = False
    """Whether the folder holds an adapter and no whole model."""


def write_card(run: RunDir, settings: RunSettings, tokenizer: PreTrainedTokenizerBase, results: Mapping[str, Scalar]) -> None:
    """`model/README.md` of a run whose model, heads and texts are saved."""
    facts = read_facts(run, settings, tokenizer, results)
    run.card.write_text(str(model_card(facts)), encoding="utf-8")


def read_facts(
    run: RunDir,
    settings: RunSettings,
    tokenizer: PreTrainedTokenizerBase,
    results: Mapping[str, Scalar],
    *,
    license: str = UNKNOWN_LICENSE,
    repository: str | None = None,
) -> CardFacts:
    """What a card says, from the files of a run directory.

    Raises:
        UserError: when `texts.json` cannot be read.
    """
    described = run.heads_description.is_file()
    return CardFacts(
        settings=settings,
        results=results,
        heads=json.loads(run.heads_description.read_text(encoding="utf-8")) if described else {},
        texts=load_texts(run.texts),
        tokenizer=tokenizer,
        license=license,
        repository=repository,
        adapter=(run.model / "adapter_config.json").is_file(),
    )


def model_card(facts: CardFacts) -> ModelCard:
    """Metadata and text, as huggingface_hub reads them."""
    settings = facts.settings
    how = f"trained with {escaped(settings.loss.name)} on {escaped(settings.dataset.name)}"
    sections = [
        f"# {escaped(title(facts))}\n\n{name_of_model(settings.model.path)}, {how} by alignkit."
        + (" This folder holds an adapter of low rank; the base model is loaded with it." if facts.adapter else ""),
        use_section(facts),
        heads_section(facts),
        data_section(settings, facts.results),
        objective_section(settings, facts.results),
        results_section(facts.results, steps=settings.steps),
        certificate_section(facts.results),
        versions_section(facts.results),
    ]
    content = "\n\n".join(filter(None, sections))
    return ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{content}\n")


def title(facts: CardFacts) -> str:
    """The repository's own name, else one of model, loss and data."""
    if facts.repository is not None:
        return facts.repository.rpartition("/")[2]
    return f"{facts.settings.model.name}-{facts.settings.loss.name}-{facts.settings.dataset.name}"


def metadata(facts: CardFacts) -> ModelCardData:
    """What the hub sorts and finds models by. A base model or data set that is not on the hub is left out: the hub would look for it."""
    settings = facts.settings
    on_hub = not is_here(settings.model.path)
    tags = ["alignkit", settings.loss.name, *(["lora"] if settings.model.adapter is not None else [])]
    measured = evaluations(facts)
    return ModelCardData(
        base_model=settings.model.path if on_hub else None,
        base_model_relation=("adapter" if facts.adapter else "finetune") if on_hub else None,
        datasets=hub_data_sets(settings.dataset) or None,
        library_name="peft" if facts.adapter else "transformers",
        license=facts.license,
        metrics=[result.metric_type for result in measured] or None,
        pipeline_tag="text-generation",
        tags=tags,
        model_name=title(facts) if measured else None,
        eval_results=measured or None,
    )


def evaluations(facts: CardFacts) -> list[EvalResult]:
    """Held-out metrics at the end, as the hub's model index holds them."""
    data = facts.settings.dataset
    (kind, *_) = [*hub_data_sets(data), data.name]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=kind,
            dataset_name=data.name,
            dataset_split="validation",
            metric_type=name.removeprefix(VALIDATION),
            metric_value=round(value, 6),
        )
        for name, value in facts.results.items()
        if name.startswith(VALIDATION) and isinstance(value, float) and math.isfinite(value)
    ]


def use_section(facts: CardFacts) -> str:
    """How the model answers."""
    if facts.texts is None:
        return ""
    code = sampling_code(facts.texts, facts.tokenizer, facts.repository or HERE)
    needs = "Needs transformers and peft." if facts.adapter else "Needs transformers."
    seen = "" if facts.repository is not None else " The paths are as seen from this folder."
    return f"## Use\n\n{needs}{seen}\n\n{fenced(code, 'python')}"


def heads_section(facts: CardFacts) -> str:
    """Which heads there are and how they score; a value head is named and no more, for it scores no completions."""
    if not facts.heads:
        return ""
    scoring = [head_settings(name, entry) for name, entry in facts.heads.items() if entry.get("reads") != PREDICTING]
    place = "" if facts.repository is not None else f"{BESIDE}/"
    lines = [f"`{place}heads.safetensors` holds the weights of the heads, `{place}heads.json` how they read:", ""]
    lines += [f"- {inline(name)}: {head_line(entry)}" for name, entry in facts.heads.items()]
    if scoring and facts.texts is not None:
        weights = f"{place}heads.safetensors"
        code = scoring_code(
            facts.texts,
            facts.tokenizer,
            scoring,
            model=facts.repository or HERE,
            weights=weights,
            is_repository=facts.repository is not None,
        )
        lines += ["", scores_line(scoring), "", fenced(code, "python")]
    lines += [
        "",
        "With alignkit: `alignkit.models.export.load_aligned(FOLDER)` gives `lm`, `tokenizer`, `heads`; `.score(prompts, completions)`.",
    ]
    return "\n".join(["## Heads", "", *lines])


def head_line(entry: Mapping[str, Any]) -> str:
    """What one head reads, through what, and how its scores are brought to a common scale."""
    line = f"{escaped(str(entry['reads']))}; pooler {escaped(str(entry['pooler']))}"
    if "gain" not in entry:
        return line
    gain, bias = shown(float(entry["gain"])), shown(float(entry["bias"]), sign=True)
    return f"{line}; {gain} * score {bias} has mean 0 and variance 1 over samples of the base model"


def scores_line(heads: list[HeadSettings]) -> str:
    """What the numbers mean."""
    some = "The score" if len(heads) == 1 else "The scores"
    return f"{some} of a completion, higher is better, comparable between completions of one prompt; transformers, safetensors and torch:"
