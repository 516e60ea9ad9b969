"""A virtual environment of its own for TRL, with the torch and transformers of the interpreter that runs the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from measure import say

TRL = "1.16.0"
TRL_PPO = "1.12.0"
"""The last release with `trl.experimental.ppo`; 1.13.0 has none."""
MARKER = "complete.json"
SAME = ("torch", "transformers", "datasets", "accelerate")
"""Packages that are to be the same on both sides; accelerate is alignkit's only where somebody installed it."""


def requirements(trl: str = TRL, pins: Sequence[str] = ()) -> list[str]:
    """What is installed; a pin, `transformers==5.0.0`, takes the place of what is the same on both sides.

    Local versions (`+cpu`) are left to pip: whichever index it uses decides which build of torch it takes.
    """
    pinned = {}
    for name in SAME:
        try:
            pinned[name] = f"{name}=={version(name).partition('+')[0]}"
        except ModuleNotFoundError:
            pinned[name] = name
    pinned.update({pin.partition("==")[0]: pin for pin in pins})
    return [f"trl=={trl}", *pinned.values()]


def trl_python(folder: str, trl: str = TRL, pins: Sequence[str] = ()) -> str:
    """The interpreter of the environment, which is made on the first call and whenever other versions are wanted.

    Without a folder it is `~/.cache/alignkit-bench/trl-VERSION`.

    Raises:
        SystemExit: when it cannot be made.
    """
    path = Path(folder or f"~/.cache/alignkit-bench/trl-{trl}").expanduser().absolute()
    python, marker = path / "bin" / "python", path / MARKER
    wanted = requirements(trl, pins)
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        say(f"environment: {path} ({' '.join(wanted)})")
        return str(python)
    say(f"environment: installing {' '.join(wanted)} into {path}, once; this takes minutes")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"env = {str(path)!r}; cannot be made: {' '.join(error.cmd)} ended with {error.returncode}.") from None
    marker.write_text(json.dumps(wanted))  # last: an environment without it is not complete
    return str(python)
