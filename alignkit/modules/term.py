"""A term: a loss, what it reads of a forward pass, and its weight in the objective.

An objective is a weighted sum of terms on one forward pass. Most have one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, final

from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch, Unit
from alignkit.data.forms import Form
from alignkit.losses.families import Loss
from alignkit.metrics import TERM_LOSS
from alignkit.modules.forward import Forward

LossT = TypeVar("LossT", bound=Loss)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a term is within its objective."""

    name: str
    """Label in the logs."""
    weight: float = 1.0
    head: str | None = None
    """The head it reads, where it reads one."""
    source: str | None = None
    """The data set of a mixture whose examples it reads; None reads all."""
    attribute: str = ""
    """The rating it fits, where it fits one."""
    bootstrap: int | None = None
    """Seed of the bootstrap of examples that it is trained on; None trains it on all alike."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TermOutput:
    """What a term says of one micro-batch."""

    losses: Tensor
    """[U] float32 with gradient, before the weight, one for each of the term's units."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Values [*] by metric name, without gradient, each to be averaged by its own count."""
    lengths: tuple[Tensor, Tensor] | None = None
    """Tokens of the completions whose rewards are the metrics `rewards/chosen` and `rewards/rejected`, in their order."""


class Term(ABC, Generic[LossT]):
    """Subclasses say how a family of losses reads a forward pass."""

    unit: ClassVar[Unit] = "examples"
    form: ClassVar[Form] = Form.pairs()
    """What the data must hold."""
    needs_reference: ClassVar[bool] = False
    needs_live_reference: ClassVar[bool] = False
    """Whether the reference has to run: a cache of log-probs does not know the whole vocabulary."""
    needs_trunk: ClassVar[bool] = True
    """Whether it does nothing for a frozen trunk's heads."""
    needs_mismatched: ClassVar[bool] = False
    """Whether a step must bring prompts with completions of other prompts."""

    def __init__(self, loss: LossT, place: Place) -> None:
        self.loss = loss
        self.place = place

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """The keys of every output's metrics."""

    @abstractmethod
    def __call__(self, forward: Forward) -> TermOutput:
        """Losses and metrics of one micro-batch."""

    def value_at_reference(self) -> float | None:
        """What each loss is, in closed form, while policy and reference are equal; None where it depends on the data."""
        return None

    def before_step(self, step: StepBatch, forward: Callable[[PackedBatch], Forward]) -> None:
        """Learn what the loss needs to know of the whole global batch. Without gradient."""

    def after_step(self) -> None:
        """Take in what the step has shown."""

    def forget_step(self) -> None:
        """Be as before the step, which is not taken: in the place of `after_step`."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""

    @property
    def loss_name(self) -> str:
        """Metric of the term's own mean loss, before its weight."""
        return TERM_LOSS + self.place.name
