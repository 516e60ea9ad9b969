"""Access tokens and passwords: what they look like, and texts without them. What is printed on the way out is kept in logs."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}"  # the hub
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{30,}"  # vendors of models
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bglpat-[A-Za-z0-9_-]{20,}"  # git
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bwandb_v1_[A-Za-z0-9_]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # JSON web tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user and password in an address
)
HEX_KEY = re.compile(r"[0-9a-f]{40}")
"""Of W&B; within a longer text it is more often the name of a commit."""
SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTHORIZATION", re.IGNORECASE)
"""Names of environment variables that hold secrets."""
SHORTEST = 8
"""Characters of a value that is looked for: shorter ones would be found everywhere."""
REMOVED = "[secret removed]"


def redacted(text: str) -> str:
    """The text without what looks like a secret, and without what is known to be one of this user's."""
    for value in sorted(known_secrets(), key=len, reverse=True):
        text = text.replace(value, REMOVED)
    return SECRETS.sub(REMOVED, text)


def known_secrets() -> set[str]:
    """What the environment, `~/.netrc` and the hub's token file hold."""
    found = {value for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    # The header `Bearer TOKEN` may come without its first word.
    found |= {word for value in found for word in value.split()}
    found |= set(stored())
    return {value.strip() for value in found if len(value.strip()) >= SHORTEST and not Path(value.strip()).is_absolute()}


def stored() -> Iterator[str]:
    """Passwords and tokens in files of the user's."""
    with suppress(OSError, netrc.NetrcParseError, RuntimeError):
        yield from (password for _, _, password in netrc.netrc(os.environ.get("NETRC")).hosts.values() if password)
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    with suppress(OSError, UnicodeDecodeError, RuntimeError):
        yield Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser().read_text(encoding="utf-8").strip()
