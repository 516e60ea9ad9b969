"""An objective that learns from its own samples, and what it asks of data and models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.forms import Form
from alignkit.losses.rollout_families import SampledLoss


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutObjective:
    """A loss on samples. Of the data it reads prompts, and their best completions where a part of the loss imitates them."""

    name: str
    loss: SampledLoss
    sources: ClassVar[frozenset[str]] = frozenset()
    needs_reference: ClassVar[bool] = True
    needs_live_reference: ClassVar[bool] = True
    needs_mismatched: ClassVar[bool] = False

    def form(self, source: str | None = None) -> Form:
        """What the data must hold."""
        return Form.single()
