"""Which steps are taken: numbers that are not finite, spikes over the steps before, and what outlives a restart."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from alignkit.divergence_settings import STOP_AT_ONCE, DivergenceSettings
from alignkit.modules.guard import Guard, Seen, Verdict

NAN = math.nan


def settings(**changes: Any) -> DivergenceSettings:
    return dataclasses.replace(STOP_AT_ONCE, **changes)


def seen(loss: float = 1.0, norm: float = 1.0, scale: float = 1.0) -> Seen:
    return Seen.of([torch.tensor(loss)], norm=norm, scale=scale)


def verdicts(guard: Guard, *steps: Seen, checkpoint: bool = True) -> list[Verdict]:
    return [guard.judge(step, can_go_back=lambda: checkpoint)[0] for step in steps]


def test_a_loss_is_that_of_the_whole_step_and_each_micro_batch_counts() -> None:
    step = Seen.of([torch.tensor(0.25), torch.tensor(NAN), torch.tensor(math.inf)], norm=1.0, scale=1.0)
    assert step.bad == 2
    assert step.losses[0] == 0.25
    assert step.fault == "the loss is nan"
    # infinities of both signs hide each other's in no sum: each is counted by itself
    assert Seen.of([torch.tensor(math.inf), torch.tensor(-math.inf)], norm=1.0, scale=1.0).bad == 2
    assert Seen.of([torch.tensor(0.25), torch.tensor(0.5)], norm=1.0, scale=1.0).loss == 0.75


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (seen(), None),
        (seen(norm=math.inf), "the gradient norm is inf"),
        (seen(norm=NAN, scale=2.0), None),  # fp16 scales less and tries again
        (seen(loss=NAN, norm=NAN, scale=2.0), "the loss is nan"),  # which no scale has touched
    ],
)
def test_a_fault_is_named(step: Seen, fault: str | None) -> None:
    assert step.fault == fault
    assert Guard(settings()).judge(step, can_go_back=lambda: False) == ((Verdict.STOP, fault) if fault else (Verdict.TAKE, None))


def test_three_in_a_row_end_a_run_and_one_that_is_taken_begins_the_count_anew() -> None:
    guard = Guard(settings(action="skip"))
    bad, good = seen(loss=NAN), seen()
    assert verdicts(guard, bad, bad, good, bad, bad) == [Verdict.SKIP, Verdict.SKIP, Verdict.TAKE, Verdict.SKIP, Verdict.SKIP]
    verdict, why = guard.judge(bad, can_go_back=lambda: False)
    assert verdict is Verdict.STOP
    assert why == "the loss is nan, 3 times in a row (divergence.most_skips)"
    assert guard.skipped == 4
    assert verdicts(Guard(settings(action="skip", most_skips=2)), bad, bad) == [Verdict.SKIP, Verdict.STOP]


# Of 1, 2, 3, 4: mean 2.5, deviation sqrt(5 / 3) = 1.2910; two of them are 5.0820.
@pytest.mark.parametrize(
    ("loss", "norm", "verdict"), [(5.08, 1.0, "taken"), (5.09, 1.0, "skipped"), (1.0, 5.09, "skipped"), (-9, -9, "taken")]
)
def test_a_spike_is_so_many_deviations_over_the_mean_of_the_steps_before(loss: float, norm: float, verdict: str) -> None:
    guard = Guard(settings(spike=2.0, spike_window=8))
    assert verdicts(guard, *(seen(value, value) for value in (1.0, 2.0, 3.0, 4.0))) == [Verdict.TAKE] * 4
    found, why = guard.judge(seen(loss, norm), can_go_back=lambda: False)
    assert found.value == verdict
    if verdict == "skipped":
        what = "loss" if loss > 2 else "gradient norm"
        assert why == f"the {what} is 5.09, 2.0 standard deviations over the 2.5 of 4 steps before"


def test_half_a_window_must_be_known_and_no_more_than_a_window_counts() -> None:
    guard = Guard(settings(spike=2.0, spike_window=4))
    assert verdicts(guard, seen(1.0), seen(1000.0)) == [Verdict.TAKE] * 2
    guard = Guard(settings(spike=2.0, spike_window=4))
    assert verdicts(guard, *map(seen, (1000.0, 1.0, 1.1, 0.9, 1.0))) == [Verdict.TAKE] * 5
    assert verdicts(guard, seen(5.0)) == [Verdict.SKIP], "with the thousand it would be none"


def test_a_new_level_is_got_used_to() -> None:
    guard = Guard(settings(spike=3.0, spike_window=4, most_skips=9))
    verdicts(guard, *map(seen, (1.0, 1.1, 0.9, 1.0)))
    assert verdicts(guard, *map(seen, [10.0] * 3)) == [Verdict.SKIP, Verdict.TAKE, Verdict.TAKE]


def test_it_goes_back_where_there_is_a_checkpoint_and_not_for_ever() -> None:
    guard = Guard(settings(spike=2.0, spike_window=8, spike_action="rollback", most_rollbacks=2))
    verdicts(guard, *map(seen, (1.0, 2.0, 3.0, 4.0)))
    at_checkpoint = guard.state()
    assert verdicts(guard, seen(99.0), checkpoint=False) == [Verdict.SKIP]
    guard.load_state(at_checkpoint)
    for left_out in (3, 6):
        assert verdicts(guard, seen(99.0)) == [Verdict.ROLL_BACK]
        assert guard.went_back(checkpoint=10, step=13) == left_out
        guard.load_state(at_checkpoint)
        assert (guard.left_out, guard.skipped) == (left_out, 0)
    verdict, why = guard.judge(seen(99.0), can_go_back=lambda: True)
    assert verdict is Verdict.STOP
    assert why is not None
    assert why.endswith(", after 2 rollbacks (divergence.most_rollbacks)")


def test_a_guard_that_goes_on_from_a_checkpoint_decides_as_one_that_was_never_stopped() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (1 + 0.1 * torch.randn(200, generator=generator)).tolist()
    values[60], values[61], values[120] = NAN, NAN, 9.0
    rules = settings(action="skip", spike=4.0, spike_window=32)
    straight = Guard(rules)
    expected = verdicts(straight, *map(seen, values))
    assert {Verdict.SKIP, Verdict.TAKE} == set(expected)
    for stop in (10, 61, 120, 121):
        before, after = Guard(rules), Guard(rules)
        decided = verdicts(before, *map(seen, values[:stop]))
        after.load_state(before.state())
        assert decided + verdicts(after, *map(seen, values[stop:])) == expected
        assert after.state() == straight.state()
