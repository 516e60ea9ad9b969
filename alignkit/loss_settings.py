"""The settings of objectives: losses, heads, joint terms and the parts of sums. See `settings` for the rest."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from alignkit.errors import UserError, check_choice, check_range, did_you_mean
from alignkit.metrics import METRICS, VALIDATION, metric

HEAD_NAME = re.compile(r"[A-Za-z][\w-]{0,99}")
"""It becomes part of the names of weights and metrics, and is typed as `scorer=NAME`."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """`loss=`: the objective, the module that trains it and the number that says whether it works."""

    name: str
    """`con_dph` is the one public class of `alignkit/losses/con_dph.py`; a dotted name is a module of an `allow_code` package."""
    module: str
    """`alignment` is the one public class of `alignkit/modules/alignment.py`."""
    monitor: str
    """Metric that decides which checkpoint is the best."""
    options: dict[str, Any]
    """The fields of the loss class, its head and its joint term, or the parts of a sum, as typed by the user."""

    def __post_init__(self) -> None:
        with contextlib.suppress(KeyError):
            if self.monitor.startswith(VALIDATION) and metric(self.monitor.removeprefix(VALIDATION)):
                return
        near = did_you_mean(self.monitor, [VALIDATION + name for name in METRICS])
        some = "such as val/loss or val/rewards/accuracies"
        raise UserError(f"loss.monitor = {self.monitor!r}; must be what a validation logs, {some}.{near}")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """`loss.head`: a head that reads one score from the hidden states of a completion (facts: DPH 1.4)."""

    POOLERS: ClassVar[tuple[str, ...]] = ("identity", "bert", "t5", "swiglu_bert", "swiglu_t5")

    name: str
    """Key of the head in `heads.safetensors`."""
    pooler: str
    """What stands between the hidden state and the linear map to one score."""
    dropout: float
    """Dropout inside the pooler, [0, 1)."""
    init_std: float | None
    """Standard deviation of the initial weights; null means 1 / sqrt(hidden width + 1)."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """What it reads of the trunk: 0 is the embeddings, k what block k puts out, -1 or the number of blocks the state after the final
    norm; of several a mixture whose weights are learned."""
    tokens: str = "last"
    """`last`: the state at the completion's last token; `attention`: those of all its tokens, through an attention layer of its own."""

    standardize: int = 0
    """Before training, each dimension of the states that it reads gets mean 0 and variance 1 over so many training completions. States of
    a trunk share a large offset, in which poolers saturate: a head that learns alone, on a frozen trunk, needs it. 0 reads them as they
    are."""
    normalize: int = 0
    """After training, scores get mean 0 and variance 1 over so many samples of the policy as it was before: a gain and a bias that are
    stored with the head, so that coefficients of KL can be compared (Ziegler et al. 2019, arXiv:1909.08593). 0 leaves scores alone."""

    def __post_init__(self) -> None:
        if not HEAD_NAME.fullmatch(self.name):
            raise UserError(
                f"loss.head.name = {self.name!r}; must be a letter, then letters, digits, '_' or '-'. Try loss.head.name=reward."
            )
        check_choice("loss.head.pooler", self.pooler, self.POOLERS)
        check_range("loss.head.dropout", self.dropout, low=0.0, below=1.0)
        if self.init_std is not None:
            check_range("loss.head.init_std", self.init_std, low=0.0)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"loss.head.layers = {self.layers}; must be one or more different layers. Try loss.head.layers=[-1].")
        check_choice("loss.head.tokens", self.tokens, ("last", "attention"))
        check_range("loss.head.standardize", self.standardize, low=0, hint="It is a number of completions. Try 1000.")
        check_range("loss.head.normalize", self.normalize, low=0, hint="It is a number of samples. Try 256.")

    @property
    def reads_terminal_states(self) -> bool:
        """Whether the state after the final norm at the last token is all that it reads, as by default."""
        return self.layers == [-1] and self.tokens == "last"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JointSettings:
    """The cDPO term that a preference head may be trained with: `loss = head loss + dpo_weight * cdpo(beta, dpo_epsilon)`."""

    dpo_weight: float
    """Weight of the cDPO term, >= 0; 0 leaves the term and its reference model out."""
    beta: float | None
    """Strength of the KL constraint in the cDPO term, > 0; null exactly when `dpo_weight` is 0."""
    dpo_epsilon: float
    """Label smoothing of the cDPO term, [0, 0.5)."""

    def __post_init__(self) -> None:
        check_range("loss.dpo_weight", self.dpo_weight, low=0.0)
        check_range("loss.dpo_epsilon", self.dpo_epsilon, low=0.0, below=0.5)
        if self.dpo_weight > 0:
            if self.beta is None:
                raise UserError("loss.beta is missing: it is the strength of the joint cDPO term. Try loss.beta=0.1.")
            check_range("loss.beta", self.beta, above=0.0)
        elif self.beta is not None:
            raise UserError(
                f"loss.beta = {self.beta} has no effect while loss.dpo_weight = 0: beta is the strength of the joint cDPO term. "
                "Leave loss.beta out, or try loss.dpo_weight=1."
            )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleSettings:
    """Several heads that learn the same on one trunk: they agree on what the data say, and differ on the rest."""

    members: int
    """Heads beside the one that learns from all pairs as they are, >= 2."""
    bootstrap: int | None
    """Each member learns from a bootstrap of the pairs of its own, and this is the seed of the draw; null: members differ by the weights
    that they start with alone."""

    def __post_init__(self) -> None:
        check_range("loss.members", self.members, low=2, hint="They differ, and one alone cannot. Try 8.")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PartPlace:
    """What one part is within its objective."""

    weight: float
    """What its mean loss is multiplied by, > 0."""
    source: str | None
    """The part of `dataset=mixture` whose examples it reads; null reads all."""
    attribute: str | None
    """The rating that its head learns, for losses on ratings."""
    bootstrap: int | None
    """Learn from a bootstrap of the examples, drawn with this seed, for each part another one; null learns from all alike."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PartSettings:
    """One weighted part of an objective."""

    name: str
    """Label in the logs."""
    where: str
    """Dotted path, as a user types it."""
    loss: str
    """A name as in `LossSettings.name`."""
    head: HeadSettings | None
    """The head it reads; None where it reads none."""
    place: PartPlace
    options: dict[str, Any]
    """The fields of the loss class."""
