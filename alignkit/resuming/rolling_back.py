"""Training through spikes: back to the newest checkpoint, and on without the batches since."""

from __future__ import annotations

from collections.abc import Callable

from lightning import Trainer

from alignkit.assembly import Job
from alignkit.errors import DivergedError
from alignkit.modules.guard import GoBack
from alignkit.resuming.going_back import Return


def fit_through(job: Job, trainer: Trainer, state: Return, *, back: Callable[[], Return], build: Callable[[], Trainer]) -> Trainer:
    """Train to the end, from `state`.

    A run that goes back counts its steps from the checkpoint again: its schedule and what it logs are those of a run that never read the
    batches since, up to and with the one that the spike came with. `PaLM` did so by hand (arXiv:2204.02311, section 5.1).

    Args:
        back: finds the newest checkpoint and forgets what was written of later steps.
        build: another trainer; one that was left by an exception keeps its loader.

    Returns:
        The trainer that came to the end.

    Raises:
        DivergedError: when the newest checkpoint is so old that the batches do not reach.
        Exception: whatever else ends training.
    """
    job.data.left_out = lambda: job.module.guard.left_out
    while True:
        path = None if state.checkpoint is None else str(state.checkpoint)
        job.data.steps_done = state.steps_done
        try:
            trainer.fit(job.module, datamodule=job.data, ckpt_path=path, weights_only=None if path is None else True)
            return trainer
        except GoBack:
            spike = job.module.steps_done + 1
            state = back()
            left_out = job.module.guard.went_back(checkpoint=state.steps_done, step=spike)
            if left_out > job.data.steps.spare:
                raise DivergedError(
                    f"step {spike}: the newest checkpoint that is whole is that of step {state.steps_done}, too far back to go on from."
                ) from None
            trainer = build()
