"""The settings of `alignkit.evaluate`, by what is measured. The files of `conf/evaluation/` hold their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from alignkit.errors import UserError, check_range
from alignkit.judge_settings import JudgeSettings

CHOSEN = "chosen"
REFERENCE = "reference"
FEWEST_RESAMPLES = 100
ANSWERS = "questions.jsonl"
"""Beside `evaluation.json`: a line a question, with what was said of its candidates."""
JUDGEMENTS = "judgements.jsonl"
"""Likewise: a line a pair of answers, with what judges said of it."""
LOGP_SUM = "logp_sum"
"""log p(candidate | prompt), nats: what lm-evaluation-harness calls `acc`."""
LOGP_MEAN = "logp_mean"
"""The same by its tokens: what the authors of DPH report as `log` (arXiv:2405.20053)."""
LOGP_CHARACTERS = "logp_characters"
"""The same by its characters: what lm-evaluation-harness calls `acc_norm`."""
LOGPS = (LOGP_MEAN, LOGP_SUM, LOGP_CHARACTERS)
IMPLICIT = "implicit"
"""beta * (log pi - log pi_ref), summed over tokens (arXiv:2305.18290, equation 5)."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionsSettings:
    """`kind: questions`: benchmarks that ask which candidate is right."""

    name: str
    tasks: list[str]
    """`hellaswag` is the one public class of `alignkit/evaluation/tasks/hellaswag.py`."""
    averages: dict[str, Any]
    """By name, the tasks whose scores are averaged; an average is told where all of them were evaluated."""
    path: str | None
    """A file of the only task's rows in their original format, or a folder with a folder or file for each task; null reads the hub."""
    limit: int | None
    """At most so many questions of each task, the first ones; null takes all."""
    listed: bool | None
    """Whether prompts list the candidates by letters where a task can do so; null is each task's own choice."""
    resamples: int
    """Bootstrap samples of each interval that has no closed form."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("evaluation.tasks = []; must name a benchmark. Try evaluation.tasks=[arc_easy].")
        for name, tasks in self.averages.items():
            if not isinstance(tasks, list) or not tasks:
                raise UserError(f"evaluation.averages.{name} = {tasks!r}; must list tasks. Try evaluation.averages.{name}=[arc_easy].")
        if self.limit is not None:
            check_range("evaluation.limit", self.limit, low=1)
        check_range("evaluation.resamples", self.resamples, low=FEWEST_RESAMPLES)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class WinRateSettings:
    """`kind: win_rate`: how often a scorer or a judge prefers the model's answers to others."""

    name: str
    opponent: str
    """`reference`: the model at `reference.path`; `chosen`: the chosen answers of the data set; else the directory of a run."""
    prompts: str
    """As `prompts=` of `alignkit.generate`."""
    limit: int | None
    """At most so many prompts, the first ones; null takes all."""
    resamples: int
    """Bootstrap samples of each interval that has no closed form."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_range("evaluation.limit", self.limit, low=1)
        check_range("evaluation.resamples", self.resamples, low=FEWEST_RESAMPLES)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CostSettings:
    """`kind: cost`: what alignment took from a language model, measured against `reference.path`."""

    name: str
    prompts: str
    """As `prompts=` of `alignkit.generate`."""
    limit: int | None
    """At most so many prompts, the first ones; null takes all."""
    text: str | None
    """A file of held-out text, one text a line or a column `text`, for perplexity before and after; null leaves it out."""
    window: int | None
    """Tokens of the longest window that a text is cut into, >= 2; null takes the positions that both models have."""
    misconceptions: str | None
    """A file of TruthfulQA in its original format, for log-probs of common false answers before and after; null leaves it out."""
    toxicity: str | None
    """An option of `scorer=` that says how toxic samples are, higher for less toxic ones; null leaves it out."""
    toxicity_options: dict[str, Any]
    """Keys of that scorer, where its file leaves some open: `evaluation.toxicity_options.path=words.txt`."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_range("evaluation.limit", self.limit, low=1)
        if self.window is not None:
            check_range("evaluation.window", self.window, low=2)
        if self.toxicity is None and self.toxicity_options:
            raise UserError(
                f"evaluation.toxicity_options = {self.toxicity_options} has no effect while nobody scores. Type evaluation.toxicity=NAME."
            )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LmEvalSettings:
    """`kind: lm_eval`: tasks of lm-evaluation-harness, by the harness itself."""

    name: str
    tasks: list[str]
    """Names that the harness knows."""
    include_path: str | None
    """A folder with tasks of your own, as YAML files of the harness that name no code."""
    limit: int | None
    """At most so many rows of each task; null takes all."""
    shots: int | None
    """Examples before each question; null is each task's own number."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("evaluation.tasks = []; must name tasks of lm-evaluation-harness. Try evaluation.tasks=[hellaswag].")
        if self.limit is not None:
            check_range("evaluation.limit", self.limit, low=1)
        if self.shots is not None:
            check_range("evaluation.shots", self.shots, low=0)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeAgreementSettings:
    """`kind: judge_agreement`: whether a judge, or each of several, prefers what people prefer."""

    name: str
    tasks: list[str]
    """Benchmarks of pairs of answers, by the names that `kind: questions` has for them."""
    path: str | None
    """A file of the only task's rows in their original format, or a folder with a folder or file for each task; null reads the hub."""
    limit: int | None
    """At most so many pairs of each task: of each group as many as is its share, drawn by their texts and not by their order, so that it
    is the same sample for every judge; null takes all."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("evaluation.tasks = []; must name a benchmark. Try evaluation.tasks=[llmbar].")
        if self.limit is not None:
            check_range("evaluation.limit", self.limit, low=1)


EvaluationSettings: TypeAlias = QuestionsSettings | WinRateSettings | CostSettings | LmEvalSettings | JudgeAgreementSettings
KINDS: Mapping[str, type[EvaluationSettings]] = {
    "questions": QuestionsSettings,
    "win_rate": WinRateSettings,
    "cost": CostSettings,
    "lm_eval": LmEvalSettings,
    "judge_agreement": JudgeAgreementSettings,
}
"""By the key `kind` of a file of `conf/evaluation/`."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSettings:
    """The keys of `alignkit.evaluate`."""

    evaluation: EvaluationSettings
    scorers: tuple[str, ...]
    """Who scores: `logp_mean`, `logp_sum`, `logp_characters`, a head of the run, `implicit`, or an option of `scorer=`."""
    against: str | None
    """The directory of another evaluation of the same questions, to be compared with pair by pair; null for none."""
    judge: JudgeSettings | None = None
    """Who compares answers, of win rates in the place of a scorer; None for nobody."""
