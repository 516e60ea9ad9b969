"""`scorer=implicit`: the reward that a policy trained on preferences implies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from alignkit.data.packing import Packing
from alignkit.errors import UserError, check_range
from alignkit.foreign_files import read_yaml
from alignkit.models.backbone import Backbone
from alignkit.models.loading import load_tokenizer
from alignkit.models.location import locate
from alignkit.run_dir import RunDir
from alignkit.scorers.answer_tokens import AnswerTokens, same_tokens, score_batches
from alignkit.scorers.own_model import load_frozen, positions_of, summed_logps
from alignkit.scorers.saved_heads import finished_run
from alignkit.scorers.scorer import Answers, ModelScorer, Scorer, Scores, Surroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Implicit(ModelScorer):
    """The implicit reward of a run, up to a term of the prompt alone:

        r = beta * (log pi(completion | prompt) - log pi_ref(completion | prompt))        log-probs summed over tokens

    Rafailov et al. 2023 (arXiv:2305.18290, equation 5). Scores compare completions of one prompt. Both models are held in memory.
    """

    path: str
    """The run's directory, which holds `model/`."""
    reference: str | None
    """Folder or hub id of the reference; null is what the run began from, by its `config.yaml`: `reference.path`, else `model.path`."""
    beta: float | None
    """Strength, > 0; null is `loss.beta` of the run."""

    def __post_init__(self) -> None:
        if self.beta is not None:
            check_range("scorer.beta", self.beta, above=0.0)

    def open(self, surroundings: Surroundings) -> Scorer:
        run = finished_run(self.path, "scorer.path")
        beta = beta_of(run) if self.beta is None else self.beta
        reference_path = locate("scorer.reference", reference_of(run) if self.reference is None else self.reference)
        tokenizer = load_tokenizer("scorer.path", str(run.model))
        if not same_tokens(tokenizer, load_tokenizer("scorer.reference", reference_path)):
            raise UserError(
                f"scorer.reference = {reference_path!r}: its tokenizer is another one than that of {self.path}, so that their log-probs "
                "cannot be compared. Type scorer.reference=FOLDER of the model that the run began from."
            )
        policy = load_frozen("scorer.path", str(run.model), surroundings)
        reference = load_frozen("scorer.reference", reference_path, surroundings)
        return _ImplicitScorer(
            models=tuple((model.to(surroundings.device), surroundings.packing(model)) for model in (policy, reference)),
            beta=beta,
            tokens=AnswerTokens(tokenizer, surroundings.tokenizer, terminator=None, positions=positions_of(policy)),
            device=surroundings.device,
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _ImplicitScorer:
    """Two models and a number."""

    models: tuple[tuple[Backbone, Packing], ...]
    """Policy and reference, each with how it likes its batches."""
    beta: float
    tokens: AnswerTokens
    device: torch.device

    @torch.no_grad()
    def __call__(self, answers: Answers) -> Scores:
        examples = self.tokens(answers)
        policy, reference = (score_batches(examples, packing, self.device, partial(summed_logps, model)) for model, packing in self.models)
        return Scores(total=self.beta * (policy - reference))


def beta_of(run: RunDir) -> float:
    """`loss.beta` of a run. Raises UserError where its loss has none."""
    loss = _config(run, "scorer.beta=0.1").get("loss") or {}
    beta = loss.get("beta")
    if not isinstance(beta, int | float) or beta <= 0:
        raise UserError(f"scorer.beta is missing: loss={loss.get('name')} of {run.path} has none. Type scorer.beta=0.1.")
    return float(beta)


def reference_of(run: RunDir) -> str:
    """What a run began from, by its config. Raises UserError where that does not say."""
    config = _config(run, "scorer.reference=FOLDER")
    path = (config.get("reference") or {}).get("path") or (config.get("model") or {}).get("path")
    if not isinstance(path, str):
        raise UserError(f"scorer.reference is missing: {run.config} does not say what the run began from. Type scorer.reference=FOLDER.")
    return path


def _config(run: RunDir, instead: str) -> dict[str, Any]:
    """The run's settings, as written. `instead` is what to type where there are none."""
    try:
        config = read_yaml(run.config)
    except UserError as error:
        raise UserError(f"{error} Type {instead}.") from None
    if not isinstance(config, dict):
        raise UserError(f"{run.config}: holds no settings. Type {instead}.")
    return config
