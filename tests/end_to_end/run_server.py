"""`python run_server.py`: runs `python -m alignkit.train` again and again without importing torch again and again.

One JSON object a line on standard input, one exit code a line on standard output (minus the number of a signal that ended the run):

    {"argv": ["steps=6"], "log": "out.txt"}
    {"argv": ["steps=6"], "log": "out.txt", "signal": 9, "at": "alignkit.run_dir:RunDir.append_metrics", "call": 3}

The second one is sent signal 9, SIGKILL, when it is about to make its third call of a method.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

import torch

import alignkit.modules.ppo  # what takes seconds, imported before the processes part
import alignkit.training  # noqa: F401
from alignkit.train import main


def send_at(place: str, call: int, number: int) -> None:
    """Have this process send itself a signal at a certain call."""
    module, _, path = place.partition(":")
    owner_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original = getattr(owner, method)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, method, counted)


def run(order: dict[str, Any]) -> None:
    """One run, in a process of its own, which it ends."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    code = 1
    try:
        torch.set_num_threads(1)
        if "signal" in order:
            send_at(order["at"], order["call"], order["signal"])
        sys.argv = ["alignkit.train", *order["argv"]]
        code = main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answer orders until there are no more."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
