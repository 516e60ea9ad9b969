"""`python -m alignkit.launching.rank_process RUN_DIR`: one rank of a run whose config.yaml lies there. For alignkit's own use."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from alignkit.job import DONE, STOPPED_BY, ending, train_here
from alignkit.launching.outcomes import Outcomes
from alignkit.launching.output import flush, send_output, steady_output
from alignkit.launching.placement import Placement, placement
from alignkit.resuming.resumption import read_settings
from alignkit.run_dir import RunDir
from alignkit.run_lock import one_of_several
from alignkit.settings import RunSettings

RESUME = "--resume"
CODE = "--allow-code="
COURTESY = 2.0
"""Seconds that a rank which lost another one waits, so that the one to blame is the first to end."""
ORPHAN_CHECK = 5.0
"""Seconds between two looks at whether the process that started this one is still there."""


@steady_output()
def main() -> int:
    """Train as one rank and leave word of how it went.

    Returns:
        The exit code: that of the error. 0 for a run that a signal stopped, whose other ranks are to finish what they save.
    """
    run = RunDir(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    outcomes = Outcomes.of(run)
    die_with_parent()
    try:
        outcomes.arrive(rank)
        if rank > 0:
            send_output(outcomes.log(rank), errors=True)
        allowed = [argument.removeprefix(CODE) for argument in sys.argv[2:] if argument.startswith(CODE)]
        settings = read_settings(run, allow_code=allowed)
        place = placement(settings.hardware)
        assert place is not None, "started by hand"
        share_cores(settings, place)
        # As TORCH_CPP_LOG_LEVEL says, if the user did: DDP, for one, warns on stderr of each step's search for unused parameters.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        with one_of_several(run.path) if rank == 0 else nullcontext():
            train_here(settings, run, resume=RESUME in sys.argv[2:])
    except BaseException as error:
        code, message = ending(error)
        if outcomes.write(rank, error, code, message).is_consequence:
            time.sleep(COURTESY)
        flush()
        # At once: what Python or a library does on its way out may wait for ranks that do not answer.
        os._exit(DONE if code in STOPPED_BY else code)
    return DONE


def share_cores(settings: RunSettings, place: Placement) -> None:
    """Have the ranks of a machine share its cores, before torch counts them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = settings.hardware.threads or max(1, cores // place.local_ranks)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def die_with_parent() -> None:
    """End this process when the one that started it is gone: ranks without a parent would hold their devices for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
