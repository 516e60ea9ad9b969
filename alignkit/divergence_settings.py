"""`divergence.`: what a run does about numbers that are not finite, and about losses that jump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError, check_choice, check_range


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceSettings:
    """What happens before an optimiser step whose loss or gradient is not finite, or is far out."""

    action: str
    """`stop`: the run ends with exit code 3, its weights those of the step before; `skip`: the step is left out."""
    most_skips: int
    """So many steps left out one after the other end the run."""
    spike: float | None
    """Standard deviations by which loss or gradient norm may be over the mean of the steps before; null does not look. OLMo-core: 6."""
    spike_window: int
    """Steps before that mean and deviation are taken over; half of them must have been made. OLMo-core: 128."""
    spike_action: str
    """`skip`: the step is left out; `rollback`: the run goes back to its newest checkpoint and on with the batches after this one."""
    most_rollbacks: int
    """The spike after so many rollbacks ends the run."""

    def __post_init__(self) -> None:
        check_choice("divergence.action", self.action, ("stop", "skip"))
        check_choice("divergence.spike_action", self.spike_action, ("skip", "rollback"))
        check_range("divergence.most_skips", self.most_skips, low=2, hint="divergence.action=stop ends the run at once.")
        check_range("divergence.most_rollbacks", self.most_rollbacks, low=1)
        check_range("divergence.spike_window", self.spike_window, low=4, hint="OLMo-core looks at 128 steps.")
        if self.spike is not None:
            check_range("divergence.spike", self.spike, above=0.0, hint="It is a number of standard deviations; OLMo-core takes 6.")
        self._check_effect()

    def _check_effect(self) -> None:
        unused: dict[str, str] = {}
        if self.spike is None:
            guard = "no spike is looked for. Try divergence.spike=6"
            unused |= dict.fromkeys(("spike_window", "spike_action", "most_rollbacks"), guard)
        elif not self.rolls_back:
            unused["most_rollbacks"] = "nothing goes back. Try divergence.spike_action=rollback"
        if not self.skips:
            unused["most_skips"] = "no step is left out. Try divergence.action=skip"
        for field, why in unused.items():
            value = getattr(self, field)
            if value != PACKAGED[field]:
                raise UserError(f"divergence.{field} = {value} has no effect: {why}.")

    @property
    def skips(self) -> bool:
        """Whether a step may be left out. One that cannot go back, because there is no checkpoint yet, is left out too."""
        return self.action == "skip" or self.spike is not None

    @property
    def rolls_back(self) -> bool:
        """Whether the run may go back to a checkpoint."""
        return self.spike is not None and self.spike_action == "rollback"

    def spare_batches(self, between: int) -> int:
        """How many batches a run may leave out: each time at most those since a checkpoint, of which there is one every `between` steps."""
        return self.most_rollbacks * between if self.rolls_back else 0


PACKAGED = {"most_skips": 3, "spike_window": 128, "spike_action": "skip", "most_rollbacks": 3}
"""What `conf/train.yaml` says of options that others switch on."""
STOP_AT_ONCE = DivergenceSettings(action="stop", spike=None, **PACKAGED)  # type: ignore[arg-type]
"""What runs do by default."""
