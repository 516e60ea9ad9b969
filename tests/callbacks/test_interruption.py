"""A signal ends training between two steps; a second one ends it at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from lightning import Callback

from alignkit.batches import PackedBatch
from alignkit.callbacks.interruption import Interruption, Stopped
from alignkit.errors import DivergedError
from alignkit.modules.alignment import AlignmentModule

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 143}
AT_ONCE = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers_before() -> Iterator[dict[signal.Signals, object]]:
    """Python's own handlers, which must be back after training; pytest's are restored whatever happens."""
    before = handlers()
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield handlers()
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> dict[signal.Signals, object]:
    return {number: signal.getsignal(number) for number in SIGNALS}


@pytest.fixture
def module(lm_factory, module_factory) -> AlignmentModule:
    return module_factory("dpo", lm_factory("llama"), steps=6)


def send(module: AlignmentModule, *signals: signal.Signals, during_step: int, validating: bool = False) -> None:
    """Signals that arrive in the middle of a step, between its forward passes, or in the validation before it."""
    original = module.evaluate

    def evaluate(batch: PackedBatch):
        if module.steps_done + 1 == during_step and module.training != validating and not sent:
            sent.append(True)
            for number in signals:
                os.kill(os.getpid(), number)
        return original(batch)

    sent: list[bool] = []
    module.evaluate = evaluate


@pytest.mark.parametrize("number", SIGNALS)
def test_the_running_step_is_finished_and_no_other_begun(number, module, examples_factory, fit):
    interruption = Interruption()
    send(module, number, during_step=3)
    with pytest.raises(Stopped):
        fit(module, examples_factory(8), tokens=40, callbacks=[interruption])
    assert interruption.received is number
    assert module.steps_done == 3
    # one step more than two: the optimiser counts for itself
    assert {int(state["step"]) for state in module.optimizers().optimizer.state.values()} == {3}


class Noticing(Callback):
    """Comes after the interruption in the list of callbacks, as what writes files may."""

    def __init__(self) -> None:
        self.validated: list[int] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        self.validated.append(pl_module.steps_done)


@pytest.mark.parametrize(
    ("during", "validating", "stopped", "validated"), [(2, False, 2, [2]), (3, True, 2, [2]), (3, False, 3, [2]), (4, False, 4, [2, 4])]
)
def test_a_validation_that_is_due_is_finished_and_no_other_begun(during, validating, stopped, validated, module, examples_factory, fit):
    send(module, signal.SIGTERM, during_step=during, validating=validating)
    noticing = Noticing()
    with pytest.raises(Stopped):
        fit(module, examples_factory(8), validation=examples_factory(2), validate_every=2, callbacks=[Interruption(), noticing])
    assert module.steps_done == stopped
    assert noticing.validated == validated


def test_a_signal_in_the_last_step_lets_training_end(module, examples_factory, fit):
    send(module, signal.SIGTERM, during_step=6)
    interruption, noticing = Interruption(), Noticing()
    fit(module, examples_factory(8), validation=examples_factory(2), validate_every=2, callbacks=[interruption, noticing])
    assert interruption.received is signal.SIGTERM
    assert noticing.validated == [2, 4, 6]


@pytest.mark.parametrize("during", [2, 3])
def test_the_state_is_saved_with_the_step_that_was_finished(during, module, examples_factory, fit, tmp_path):
    # half way between validations by the interruption itself; at one by the checkpoint of that validation, as in training
    target = tmp_path / "last.ckpt"
    send(module, signal.SIGTERM, during_step=during)
    interruption = Interruption()
    interruption.save = lambda trainer: trainer.save_checkpoint(target)
    with pytest.raises(Stopped):
        fit(module, examples_factory(8), validation=examples_factory(2), validate_every=2, callbacks=[interruption])
    assert target.exists() == (during == 3)
    if target.exists():
        assert torch.load(target, weights_only=True)["alignkit/progress"]["steps_done"] == 3


def test_without_a_signal_training_runs_to_its_end(module, examples_factory, fit):
    interruption = Interruption()
    fit(module, examples_factory(8), callbacks=[interruption])
    assert interruption.received is None
    assert module.steps_done == 6


@pytest.mark.parametrize("interrupted", [False, True])
def test_handlers_are_restored_after_training(interrupted, module, examples_factory, fit, handlers_before):
    # else a SIGTERM that comes while the model is saved is swallowed
    if interrupted:
        send(module, signal.SIGTERM, during_step=3)
    with suppress(Stopped):
        fit(module, examples_factory(8), callbacks=[Interruption()])
    assert handlers() == handlers_before


def test_handlers_are_restored_when_training_fails(module, examples_factory, fit, handlers_before):
    def diverge(batch: PackedBatch):
        raise DivergedError("as it were")

    module.evaluate = diverge
    with pytest.raises(DivergedError):
        fit(module, examples_factory(8), callbacks=[Interruption()])
    assert handlers() == handlers_before


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_stops_in_the_middle_of_a_step(first, second, module, examples_factory, fit, handlers_before):
    interruption = Interruption()
    send(module, first, second, during_step=3)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module, examples_factory(8), callbacks=[interruption])
    assert interruption.received is first
    assert module.steps_done == 2
    assert handlers() == handlers_before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_with_the_signals_exit_code(number, module, examples_factory, fit):
    send(module, number, number, during_step=3)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        fit(module, examples_factory(8), callbacks=[Interruption()])
    # the shell makes 130 of a KeyboardInterrupt
    code = 130 if caught.type is KeyboardInterrupt else caught.value.code
    assert code == CODES[number]


@pytest.mark.parametrize("number", AT_ONCE)
def test_outside_of_training_one_signal_ends_the_process_at_once(number, handlers_before):
    # while the model is loaded, validated or saved
    with pytest.raises(SystemExit) as caught, Interruption() as interruption:
        os.kill(os.getpid(), number)
    assert caught.value.code == CODES[number]
    assert interruption.received is None
    assert handlers() == handlers_before


def test_slurms_warning_before_training_waits_for_the_first_step(module, examples_factory, fit):
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGUSR1)  # while the model is loaded
        with pytest.raises(Stopped):
            fit(module, examples_factory(8), callbacks=[interruption])
    assert module.steps_done == 1
    assert interruption.received is signal.SIGUSR1


def test_slurms_warning_after_training_is_too_late_to_matter(module, examples_factory, fit):
    with Interruption() as interruption:
        fit(module, examples_factory(8), callbacks=[interruption])
        os.kill(os.getpid(), signal.SIGUSR1)  # while the model is saved
    assert interruption.received is None


def test_who_started_it_with_nohup_hears_nothing_of_a_hangup(module, examples_factory, fit):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    send(module, signal.SIGHUP, during_step=3)
    with Interruption() as interruption:
        fit(module, examples_factory(8), callbacks=[interruption])
    assert module.steps_done == 6
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", AT_ONCE)
def test_inside_its_context_training_is_followed_by_the_same_handlers(number, module, examples_factory, fit, handlers_before):
    with Interruption() as interruption:
        before = handlers()
        fit(module, examples_factory(8), callbacks=[interruption])
        assert handlers() == before != handlers_before
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), number)
    assert caught.value.code == CODES[number]
    assert module.steps_done == 6
    assert handlers() == handlers_before
