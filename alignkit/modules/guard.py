"""Whether an optimiser step may change the weights: its numbers are looked at once, on all ranks together, before they can do harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean, stdev
from typing import Any, final

import torch
from torch import Tensor

from alignkit import ranks
from alignkit.divergence_settings import DivergenceSettings
from alignkit.metrics import ROLLBACKS, SKIPPED_STEPS


@final
class Verdict(Enum):
    """What becomes of a step."""

    TAKE = "taken"
    SKIP = "skipped"
    ROLL_BACK = "rolled back"
    STOP = "stopped"


@final
class GoBack(BaseException):
    """The run goes on from its newest checkpoint, without the batches since. No `Exception`: nothing has failed, nothing is to be saved."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What all ranks know of a step before its update."""

    losses: tuple[float, ...]
    """This rank's micro-batches, each its share of `loss`."""
    loss: float
    """Of the whole step, over all ranks: the mean that is minimised."""
    bad: int
    """Micro-batches of all ranks whose loss is not finite."""
    norm: float
    """Of the whole gradient, the same on every rank."""
    scale: float = 1.0
    """By which fp16 multiplies the loss; with one over 1 a norm that is not finite says no more than that it is too large."""

    @classmethod
    def of(cls, losses: Sequence[Tensor], *, norm: float, scale: float) -> Seen:
        """Of this rank's losses [] each; one message between ranks, one wait for the device."""
        own = torch.stack([loss.detach().double() for loss in losses]).tolist() if losses else []
        bad = sum(not math.isfinite(loss) for loss in own)
        bad, total = ranks.sum_over_ranks(torch.tensor([bad, sum(own)], dtype=torch.float64)).tolist()
        return cls(losses=tuple(own), loss=total, bad=int(bad), norm=norm, scale=scale)

    @property
    def fault(self) -> str | None:
        """What is not finite, in words."""
        if self.bad:
            return f"the loss is {self.loss}"
        if not math.isfinite(self.norm) and self.scale <= 1:
            return f"the gradient norm is {self.norm}"
        return None


@final
class Guard:
    """Judges the steps of a run. What it has seen and done is part of a checkpoint, so that a resumed run decides equally.

    A spike is a loss or a gradient norm that is more than `spike` standard deviations over the mean of the `spike_window` steps before
    it, of which there must be half as many: the rule of OLMo-core's `SkipStepOptimizer`, but for falls, which that leaves out too. A step
    that is left out counts into later means, as there, so that a new level is got used to. Going back and leaving batches out is how PaLM
    was trained (arXiv:2204.02311, section 5.1).
    """

    def __init__(self, settings: DivergenceSettings) -> None:
        self.settings = settings
        self.skipped = 0
        """Steps of the run that were left out."""
        self.skipped_in_a_row = 0
        self.rollbacks = 0
        self.left_out = 0
        """Batches that no step of the run was made of, because it went back over them."""
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._steps_back: tuple[int, int] | None = None

    def judge(self, seen: Seen, *, can_go_back: Callable[[], bool]) -> tuple[Verdict, str | None]:
        """What becomes of a step, and why where it is not simply taken. `can_go_back`: whether there is
        a checkpoint."""
        fault = seen.fault
        if fault is not None:
            return self._without(fault) if self.settings.action == "skip" else (Verdict.STOP, fault)
        spike = self._spike(seen)
        if spike is None:
            self.skipped_in_a_row = 0
            return Verdict.TAKE, None
        if not self.settings.rolls_back or not ranks.from_first(can_go_back()):
            return self._without(spike)
        if self.rollbacks >= self.settings.most_rollbacks:
            return Verdict.STOP, f"{spike}, after {self.rollbacks} rollback{'s' * (self.rollbacks > 1)} (divergence.most_rollbacks)"
        return Verdict.ROLL_BACK, spike

    def judge_samples(self, fault: str) -> tuple[Verdict, str]:
        """What becomes of an update whose samples have numbers that are not finite."""
        return self._without(fault) if self.settings.action == "skip" else (Verdict.STOP, fault)

    def went_back(self, *, checkpoint: int, step: int) -> int:
        """Take note that the run goes on from step `checkpoint`, with the batches after that of `step`, which is not done.

        Returns:
            The batches that are left out now. The next state that is loaded is that of the checkpoint, with this on top.
        """
        self._steps_back = (self.rollbacks + 1, self.left_out + step - checkpoint)
        return self._steps_back[1]

    def metrics(self) -> dict[str, float]:
        """What a training row says of a run that may leave steps out or go back."""
        skipped: dict[str, float] = {SKIPPED_STEPS: self.skipped} if self.settings.skips else {}
        return skipped | ({ROLLBACKS: self.rollbacks} if self.settings.rolls_back else {})

    def results(self) -> dict[str, int]:
        """The same at the end of a run, for `results.json`."""
        skipped = {"skipped_steps": self.skipped} if self.settings.skips else {}
        return skipped | ({"rollbacks": self.rollbacks, "left_out_batches": self.left_out} if self.settings.rolls_back else {})

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "rollbacks": self.rollbacks,
            "left_out": self.left_out,
            "losses": list(self._losses),
            "norms": list(self._norms),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self.skipped_in_a_row = int(state["skipped"]), int(state["skipped_in_a_row"])
        self.rollbacks, self.left_out = int(state["rollbacks"]), int(state["left_out"])
        self._losses, self._norms = list(state["losses"]), list(state["norms"])
        if self._steps_back is not None:
            self.rollbacks, self.left_out = self._steps_back
            self._steps_back = None

    def _without(self, why: str) -> tuple[Verdict, str]:
        """Leave the step out, unless that is one too many."""
        if self.skipped_in_a_row + 1 >= self.settings.most_skips:
            return Verdict.STOP, f"{why}, {self.skipped_in_a_row + 1} times in a row (divergence.most_skips)"
        self.skipped += 1
        self.skipped_in_a_row += 1
        return Verdict.SKIP, why

    def _spike(self, seen: Seen) -> str | None:
        """What is far out, in words; the step is one of those before it from now on."""
        settings = self.settings
        if settings.spike is None or not math.isfinite(seen.norm):  # fp16 leaves such a step out by itself
            return None
        found = None
        for name, value, before in (("loss", seen.loss, self._losses), ("gradient norm", seen.norm, self._norms)):
            if len(before) >= settings.spike_window // 2:
                mean, deviation = fmean(before), stdev(before)
                if found is None and deviation > 0 and value > mean + settings.spike * deviation:
                    far = (value - mean) / deviation
                    found = f"the {name} is {value:.4g}, {far:.1f} standard deviations over the {mean:.4g} of {len(before)} steps before"
            before.append(value)
            del before[: -settings.spike_window]
        # Ranks have the same numbers but for last bits, which must not part them.
        return (found or "another rank's numbers are far out") if ranks.largest(found is not None) else None
