"""Chat templates come with models and are programs. Jinja's sandbox keeps them from Python, but bounds neither their time nor memory."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from alignkit.errors import UserError

PROBE = Path(__file__).with_name("template_probe.py")
PROBE_SECONDS = 30.0
"""Of waiting for the probe, which has two seconds of a processor."""
LONGEST_TEMPLATE = 500_000
"""Characters. Those in use have a few thousand, the largest twenty thousand."""
RENDER_SECONDS = 5
"""Of one dialogue, which takes a tenth of a millisecond."""


def check_templates(where: str, templates: str | Mapping[str, str] | None, tokens: Mapping[str, str]) -> None:
    """Refuse chat templates that a few words take up for seconds, fill memory with, or reach into Python with. `where` is the setting and
    its value; `tokens` are the tokenizer's special ones, which templates write.

    Raises:
        UserError: saying which.
    """
    named = {"": templates} if isinstance(templates, str) else dict(templates or {})
    for name, template in named.items():
        reason = harm(str(template), tuple(sorted((key, str(token)) for key, token in tokens.items())))
        if reason is not None:
            which = f" {name!r}" if name else ""
            raise UserError(
                f"{where}: its chat template{which} {reason}. Take a tokenizer from somebody else, or remove its chat_template and type "
                "dataset.format=text."
            )


@functools.lru_cache(maxsize=64)
def harm(template: str, tokens: tuple[tuple[str, str], ...]) -> str | None:
    """What is wrong with a template, found out in another process; None where nothing is."""
    if len(template) > LONGEST_TEMPLATE:
        return f"has {len(template):,} characters"
    question = json.dumps({"template": template, "tokens": dict(tokens)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(PROBE)], input=question, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "does not end"
    if done.returncode == 0:
        answer = json.loads(done.stdout)["refusal"]
        return None if answer is None else str(answer)
    if done.returncode < 0:
        return "takes seconds, or all memory, for a dialogue of a few words"
    lines = done.stderr.strip().splitlines() or ["no word"]
    return f"cannot be tried ({lines[-1][:200]})"


@contextmanager
def in_time(where: str) -> Iterator[None]:
    """Stop what a template does to one dialogue after some seconds; it may wait for a word that no probe says.

    Only a main thread can be told so; elsewhere this does nothing.

    Raises:
        UserError: when it took longer.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer") or any(signal.getitimer(0)):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise UserError(f"{where}: its chat template takes more than {RENDER_SECONDS} seconds for one dialogue. Try dataset.format=text.")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, RENDER_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
