"""The settings of objectives that learn from their own samples: how they sample and what samples are worth. See `settings` for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from alignkit.errors import check_choice, check_range

NO_SCORER = "none"
"""The option of `scorer=` under which nothing scores."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings:
    """How the policy is sampled in each update: `batch.pairs` prompts, each answered `samples` times."""

    samples: int
    """Completions of each prompt, >= 1; objectives that compare samples of a prompt need 2."""
    max_tokens: int
    """Longest completion, tokens, >= 1; one that is cut there has no terminator."""
    temperature: float
    """Logits are divided by it wherever the policy is sampled or scored, > 0: the policy is softmax(logits / temperature)."""
    top_k: int
    """Sample among so many likeliest tokens; 0 samples among all."""
    top_p: float
    """Sample among the likeliest tokens that together have this probability, (0, 1]."""
    tokens: int
    """Positions, prompts included, whose keys and values are held at once while sampling: what bounds its memory."""
    backend: str
    """`torch`: the trunk that is trained samples, without a second copy; `vllm`: an engine of its own that is given the weights."""
    reuse: int
    """Earlier rollouts that each update trains on again, with truncated importance weights, >= 0."""
    importance_cap: float
    """Largest importance weight of a token that another policy drew, an earlier one or that of another engine, >= 1."""

    def __post_init__(self) -> None:
        check_range("rollout.samples", self.samples, low=1)
        check_range("rollout.max_tokens", self.max_tokens, low=1)
        check_range("rollout.temperature", self.temperature, above=0.0)
        check_range("rollout.top_k", self.top_k, low=0)
        check_range("rollout.top_p", self.top_p, above=0.0, high=1.0)
        check_range("rollout.tokens", self.tokens, low=16)
        check_choice("rollout.backend", self.backend, ("torch", "vllm"))
        check_range("rollout.reuse", self.reuse, low=0)
        check_range("rollout.importance_cap", self.importance_cap, low=1.0)

    @property
    def samples_elsewhere(self) -> bool:
        """Whether samples come from an engine of its own, which rounds in other places than the trunk that is trained."""
        return self.backend != "torch"

    @property
    def weighs_samples(self) -> bool:
        """Whether samples carry importance weights: some are of an earlier policy, or all of another engine."""
        return self.reuse > 0 or self.samples_elsewhere


UNUSED_ROLLOUT = RolloutSettings(
    samples=4, max_tokens=48, temperature=1.0, top_k=0, top_p=1.0, tokens=32768, backend="torch", reuse=0, importance_cap=2.0
)
"""What the files say; an objective that samples nothing refuses anything else."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSettings:
    """What becomes of a scorer's scores before they are rewards. Everything is off by default and logged under its own name."""

    clip: float | None
    """Scores are clipped to [-clip, clip], > 0; null leaves them."""
    length_penalty: float
    """Taken from the score for each token of a completion, >= 0."""
    missing_terminator_penalty: float
    """Taken from the score of a completion that was cut before it ended, >= 0."""

    def __post_init__(self) -> None:
        if self.clip is not None:
            check_range("reward.clip", self.clip, above=0.0)
        check_range("reward.length_penalty", self.length_penalty, low=0.0)
        check_range("reward.missing_terminator_penalty", self.missing_terminator_penalty, low=0.0)


UNUSED_REWARD = RewardSettings(clip=None, length_penalty=0.0, missing_terminator_penalty=0.0)
"""What the files say."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerSettings:
    """`scorer=`: who says how good a completion is."""

    name: str
    """`vader` is the one public class of `alignkit/scorers/vader.py`; a dotted name is a module of an `allow_code` package."""
    options: dict[str, Any]
    """The fields of that class, as typed by the user."""
