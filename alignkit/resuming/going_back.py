"""Where a run that was stopped goes on: its newest checkpoint that is whole, and rows of metrics no newer than it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit import ranks
from alignkit.assembly import say
from alignkit.callbacks.checkpoint_files import clear_drafts, versions
from alignkit.checkpoint_weights import is_checkpoint, steps_of
from alignkit.errors import UserError
from alignkit.ledger_file import LedgerFile
from alignkit.manifests import Manifest, manifest_of, newest_intact, step_checkpoints
from alignkit.run_dir import RunDir, forget_after


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Return:
    """The state that a run goes on from."""

    checkpoint: Path | None
    """None where it was stopped before the first one: it begins anew."""
    steps_done: int


def go_back(run: RunDir) -> Return:
    """Find the newest checkpoint that is whole, and forget what was written of later steps. The first rank decides for all.

    Raises:
        UserError: when there are checkpoints and each is damaged: nobody's run begins anew because of that.
    """
    state: Return | None = None
    refusal = None
    if ranks.is_first():
        try:
            state = newest_state(run)
        except UserError as error:
            refusal = str(error)
    state, refusal = ranks.from_first((state, refusal))
    if state is None:
        raise UserError(str(refusal))
    if ranks.is_first():
        for file in (run.metrics, run.samples, run.pairs):
            forget_after(file, state.steps_done if state.checkpoint is not None else -1)
        forget_visits(LedgerFile(folder=run.ledger), state.steps_done if state.checkpoint is not None else -1)
    ranks.wait_for_all()
    say(f"resume: from step {state.steps_done}")
    return state


def forget_visits(ledger: LedgerFile, step: int) -> None:
    """Of training pairs, those of later steps; all of them where nobody can say which these are."""
    try:
        ledger.forget_after(step)
    except (OSError, ValueError) as error:
        say(f"resume: {error}; the ledger begins anew")
        ledger.visits.unlink(missing_ok=True)


def newest_state(run: RunDir) -> Return:
    """What `go_back` finds, with a line to the user for each checkpoint that it passes over.

    Raises:
        UserError: when none of them is whole.
    """
    clear_drafts(run.checkpoints)
    checkpoint, damages = newest_intact(run.checkpoints)
    for wrong in damages:
        say(f"resume: {wrong}; it is left out")
    if checkpoint is not None:
        manifest = Manifest.read(checkpoint)
        now = versions()
        changed = [f"{name} {then} -> {now.get(name)}" for name, then in manifest.versions.items() if now.get(name) != then]
        if changed:
            say(f"resume: the run began with other versions ({', '.join(changed)}); numbers may differ from then on")
        return Return(checkpoint=checkpoint, steps_done=manifest.step)
    if is_checkpoint(run.last_checkpoint) and not damages:
        say(f"resume: {run.last_checkpoint.name} is of an older version, without checksums")
        return Return(checkpoint=run.last_checkpoint, steps_done=steps_of(run.last_checkpoint))
    if damages and was_ever_whole(run):
        raise UserError(
            f"resume = {run.path}: no checkpoint is whole: {'; '.join(damages)}. Copy them again from where they came, or begin a new run."
        )
    say("resume: there is no checkpoint yet; the run begins anew")
    return Return(checkpoint=None, steps_done=0)


def was_ever_whole(run: RunDir) -> bool:
    """Whether a checkpoint to go on from was ever finished; the link to the last one is made after its manifest."""
    return os.path.lexists(run.last_checkpoint) or any(manifest_of(path).exists() for path in step_checkpoints(run.checkpoints))
