"""`divergence.`: an option that would do nothing is refused, and one that cannot work."""

from __future__ import annotations

import pytest

from alignkit.command_line import precheck
from alignkit.divergence_settings import STOP_AT_ONCE
from alignkit.errors import UserError

REFUSED = {
    ("divergence.action=ignore",): "must be one of stop, skip",
    ("divergence.action=skip", "divergence.most_skips=1"): r"most_skips = 1; must be a number in \[2, inf\)\. divergence\.action=stop",
    ("divergence.most_skips=5",): r"divergence\.most_skips = 5 has no effect: no step is left out\. Try divergence\.action=skip",
    ("divergence.spike=0",): r"divergence\.spike = 0\.0; must be a number in \(0, inf\)",
    ("divergence.spike_window=64",): r"spike_window = 64 has no effect: no spike is looked for\. Try divergence\.spike=6",
    ("divergence.spike_action=rollback",): "spike_action = rollback has no effect: no spike is looked for",
    ("divergence.spike=6", "divergence.most_rollbacks=9"): r"most_rollbacks = 9 has no effect: nothing goes back",
    ("divergence.spike=6", "divergence.spike_action=rollback", "callbacks.checkpoints=false"): "there is nothing to go back to",
    ("divergence.spike=6", "divergence.spike_action=rollback", "hardware=fsdp"): r"Type divergence\.spike_action=skip",
    ("divergence.typo=1",): "no such key",
}


@pytest.mark.parametrize("typed", REFUSED, ids=" ".join)
def test_what_has_no_effect_or_cannot_work_is_refused(typed: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=REFUSED[typed]):
        precheck(typed)


def test_by_default_a_run_ends_at_the_first_number_that_is_not_finite_and_looks_for_no_spike() -> None:
    (settings,) = precheck([])
    assert settings.divergence == STOP_AT_ONCE
    assert not settings.divergence.skips
    assert not settings.divergence.rolls_back


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_a_guard_against_spikes_may_leave_steps_out_whatever_happens_to_other_numbers(action: str) -> None:
    (settings,) = precheck(["divergence.spike=6", "divergence.most_skips=5", f"divergence.spike_action={action}"])
    assert settings.divergence.skips
    assert settings.divergence.rolls_back == (action == "rollback")
    # three rollbacks over at most `validation.every` = 50 batches each
    assert settings.divergence.spare_batches(settings.validation.every) == (150 if action == "rollback" else 0)
