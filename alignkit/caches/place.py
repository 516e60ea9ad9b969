"""Where computed values are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from alignkit.errors import UserError

VARIABLE = "ALIGNKIT_CACHE"


def cache_root(setting: str | None) -> Path:
    """`cache_dir`, else $ALIGNKIT_CACHE, else $XDG_CACHE_HOME/alignkit, else ~/.cache/alignkit. Nothing is made or opened.

    Raises:
        UserError: when the home directory is asked for and there is none.
    """
    named = setting or os.environ.get(VARIABLE)
    try:
        if named:
            return Path(named).expanduser().absolute()
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(home).expanduser().absolute() / "alignkit"
    except RuntimeError as error:
        raise UserError(f"cache_dir = {setting!r}: {error} Type cache_dir=DIR.") from None


def short(path: Path) -> str:
    """A path as a user would type it: `~` for the home directory."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
