"""Runs of W&B's server, through its public API: what other machines have logged."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alignkit.analysis.json_lines import history_of
from alignkit.analysis.loaded import STEP, TIME, LoadedRun
from alignkit.analysis.run_files import DONE, FAILED, INTERRUPTED, UNFINISHED
from alignkit.analysis.wandb_offline import config_of, results_of, row_of
from alignkit.errors import UserError

PREFIX = "wandb:"
SERVER = "api.wandb.ai"
STATES = {"finished": DONE, "crashed": UNFINISHED, "failed": FAILED, "killed": INTERRUPTED}
"""What alignkit calls W&B's states; a run that crashed has stopped sending without a word."""


def read_server_runs(place: str) -> Iterator[LoadedRun]:
    """The runs of `wandb:entity/project`, oldest first, or the one of `wandb:entity/project/id`. Their samples stay on the server.

    Raises:
        UserError: when the place is written otherwise, or the server does not show it to this user.
    """
    parts = place.removeprefix(PREFIX).split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"{place!r}: must be wandb:entity/project, or wandb:entity/project/run_id, as in the project's address.")
    import wandb

    host = urlsplit(wandb.setup().settings.base_url).netloc
    if not is_logged_in(host):  # W&B would ask for a key, and a command or notebook would wait
        raise UserError(f"{place!r}: nobody is logged in at {host}. Type `wandb login` once, or set WANDB_API_KEY.")
    try:
        api = wandb.Api()
        path = "/".join(parts)
        found = [api.run(path)] if len(parts) == 3 else list(api.runs(path, order="+created_at"))
        for run in found:
            yield read_server_run(run)
    except (wandb.errors.Error, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{place!r}: W&B does not show it ({message}). Check the name, and log in with `wandb login`.") from None


def is_logged_in(host: str) -> bool:
    """Whether there is a key for a server: in the environment, or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC") or Path("~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    # W&B's own servers share their keys, under the name that the first one had.
    return any(known.authenticators(name) for name in (host, *([] if os.environ.get("WANDB_BASE_URL") else [SERVER])))


def read_server_run(run: Any) -> LoadedRun:
    """One of `wandb.Api`'s runs, with its whole history and not a sample of it."""
    rows = (row_of(row) for row in run.scan_history())
    return LoadedRun(
        name=run.name or run.id,
        path=None,
        config=config_of(run.config),
        results=results_of(dict(run.summary)),
        history=history_of(row for row in rows if row.keys() - {STEP, TIME}),
        samples=[],
        status=STATES.get(run.state, UNFINISHED),
    )
