"""What the first rank decides, the others learn before they have met for training: which directory is the run's."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from alignkit.errors import UserError
from alignkit.launching.placement import Placement
from alignkit.run_dir import RunDir

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the first one: nodes of a cluster start minutes apart."""
KEY = "alignkit/run_dir"
_kept: list[Any] = []
"""Stores that ranks have met at. The first rank's is the server: were it let go, a rank that still asks would lose its connection."""


def agreed_run(place: Placement | None, claim: Callable[[], RunDir]) -> RunDir:
    """The first rank claims the directory, all others learn which it is. `place` None: this process is alone.

    The ranks meet at the store that training meets at later: `MASTER_ADDR:MASTER_PORT`, which torchrun sets and Slurm's variables give.

    Raises:
        UserError: on every rank what `claim` raised on the first.
    """
    if place is None:
        return claim()
    store = meeting_place(place)
    if place.rank > 0:
        answer = store.get(KEY).decode()
        if answer.startswith("!"):
            raise UserError(answer[1:])
        return RunDir(Path(answer))
    try:
        run = claim()
    except UserError as error:
        store.set(KEY, f"!{error}")
        raise
    store.set(KEY, str(run.path))
    return run


def meeting_place(place: Placement) -> Any:
    """The store that torch gives all ranks under `env://`; a second one in this process shares its server."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        # Reading them sets both variables by Lightning's rule, so that training meets at the same place.
        slurm = SLURMEnvironment(auto_requeue=False)
        _ = slurm.main_address, slurm.main_port
    store, _, _ = next(rendezvous("env://", place.rank, place.ranks, timeout=PATIENCE))
    _kept.append(store)
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
