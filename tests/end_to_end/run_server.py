"""`python run_server.py`: runs alignkit's commands again and again without importing torch again and again.

One JSON list of orders a line on standard input, whose processes run at the same time; one JSON list of exit codes a line on standard
output (minus the number of a signal that ended the process):

    [{"argv": ["steps=6"], "log": "out.txt", "folder": "."}]
    [{"argv": ["steps=6"], "log": "out.txt", "folder": ".", "signal": 9, "at": "alignkit.run_dir:RunDir.append_metrics", "call": 3}]

The second one is sent signal 9, SIGKILL, when it is about to make its third call of a method. An order may have `command`, the module of
another command than `alignkit.train`, `environment`, variables to add, and `constants`, values by `module:NAME`.
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
        os.chdir(order["folder"])
        os.environ.update(order.get("environment", {}))
        for place, value in order.get("constants", {}).items():
            module, _, name = place.partition(":")
            setattr(importlib.import_module(module), name, value)
        if "signal" in order:
            send_at(order["at"], order["call"], order["signal"])
        command = order.get("command", "alignkit.train")
        sys.argv = [command, *order["argv"]]
        code = importlib.import_module(command).main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(order: dict[str, Any]) -> int:
    """The id of a new process that carries an order out."""
    child = os.fork()
    if child == 0:
        run(order)
    return child


def serve() -> None:
    """Answer orders until there are no more."""
    for line in sys.stdin:
        children = [start(order) for order in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    serve()
