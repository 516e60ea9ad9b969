"""How a module is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.divergence_settings import STOP_AT_ONCE, DivergenceSettings
from alignkit.optimizer_settings import OptimizerSettings, ScheduleSettings
from alignkit.settings import RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Optimizer, schedule and length of a run."""

    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    steps: int
    """Optimiser steps of the whole run."""
    log_every: int
    """Optimiser steps between training rows."""
    divergence: DivergenceSettings = STOP_AT_ONCE
    """What happens to a step whose numbers are not finite, or far out."""

    @classmethod
    def of(cls, settings: RunSettings) -> Recipe:
        """That of a run."""
        return cls(
            optimizer=settings.optimizer,
            schedule=settings.schedule,
            steps=settings.steps,
            log_every=settings.logger.every,
            divergence=settings.divergence,
        )
