"""`python run_server.py`: runs alignkit's commands again and again without importing torch again and again.

One JSON list of orders a line on standard input, whose processes run at the same time; one JSON list of exit codes a line on standard
output (minus the number of a signal that ended the process):

    [{"argv": ["steps=6"], "log": "out.txt", "folder": "."}]
    [{"argv": ["steps=6"], "log": "out.txt", "folder": ".", "signal": 9, "at": "alignkit.run_dir:RunDir.append_metrics", "call": 3}]

The second one is sent signal 9, SIGKILL, when it is about to make its third call of a method; with `after` instead of `at` and `call`, once
so many seconds have passed; with `error` instead of `signal` the call raises that built-in exception. An order may have `command`, the
module of another command than `alignkit.train`, `environment`, variables to add, `constants`, values by `module:NAME`, and `largest`, the
bytes of a file at which its disk is full. `child` has the signal sent to the process of that name that the run has started; a process that
is stopped is continued a second later. `full` is a file's name, with the first and the last of the writes to it that find no room. `clock`
has the system's clock go back by so many seconds whenever it is looked at.
"""

from __future__ import annotations

import builtins
import errno
import functools
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import alignkit.modules.ppo  # what takes seconds, imported before the processes part
import alignkit.training  # noqa: F401


def act_at(place: str, call: int, act: Callable[[], None]) -> None:
    """Have something happen when a certain call of a method begins."""
    module, _, path = place.partition(":")
    owner_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original = getattr(owner, method)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        return original(*args, **kwargs)

    setattr(owner, method, counted)


def end(order: dict[str, Any]) -> None:
    """A signal that this process sends itself, or an error."""
    if "error" in order:
        raise getattr(builtins, order["error"])("as it were")
    target = child_named(order["child"]) if "child" in order else os.getpid()
    if order["signal"] == signal.SIGSTOP and os.fork() == 0:
        time.sleep(1)
        os.kill(target, signal.SIGCONT)
        os._exit(0)
    os.kill(target, order["signal"])


def child_named(name: str) -> int:
    """The id of a process that this one has started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if facts["Name"].strip() == name and int(facts["PPid"]) == os.getpid():
                return int(facts["Pid"])
    raise AssertionError(f"no {name} has been started")


def fill(name: str, first: int, last: int) -> None:
    """Have the disk be full for some of the writes to a file, each of which gets half of its bytes there."""
    write, calls, found = os.write, 0, False

    def refusing(descriptor: int, content: Any) -> int:
        nonlocal calls, found
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name != name:
            return write(descriptor, content)
        if found:
            found = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        calls += 1
        found = first <= calls <= last
        return write(descriptor, content[: len(content) // 2] if found else content)

    os.write = refusing


def refuse_connections() -> None:
    """Have every attempt to reach another machine, or to ask for its address, fail and be told of."""

    def refused(*words: Any, **named: Any) -> None:
        print(f"a connection was tried: {words} {named}", file=sys.stderr, flush=True)
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo"), (socket, "create_connection")):
        setattr(owner, name, refused)


def turn_back(seconds: float) -> None:
    """Have the system's clock jump back again and again."""
    look, looks = time.time, 0

    def earlier() -> float:
        nonlocal looks
        looks += 1
        return look() - seconds * looks

    time.time = earlier


def send_after(seconds: float, number: int) -> None:
    """Have this process send itself a signal at a certain time, whatever it does then."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def run(order: dict[str, Any]) -> None:
    """One run, in a process of its own, which it ends."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    code = 1
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever has started the tests with nohup
        torch.set_num_threads(1)
        os.chdir(order["folder"])
        os.environ.update(order.get("environment", {}))
        for place, value in order.get("constants", {}).items():
            module, _, name = place.partition(":")
            setattr(importlib.import_module(module), name, value)
        if "after" in order:
            send_after(order["after"], order["signal"])
        elif "at" in order:
            act_at(order["at"], order["call"], functools.partial(end, order))
        if order.get("no_sockets"):
            refuse_connections()
        if "clock" in order:
            turn_back(order["clock"])
        if "full" in order:
            fill(*order["full"])
        if "largest" in order:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))
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
