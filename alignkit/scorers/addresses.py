"""Servers: their addresses, the secrets that they are shown, and how long they ask to be left alone."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import InvalidHeader

from alignkit.errors import UserError

LONGEST_PAUSE = 120.0
"""Seconds between two tries, whatever the server would like."""
SECRET = re.compile(r"(key|token|secret|password|sig|signature)=", re.IGNORECASE)
"""In the query of an address."""


def check_address(group: str, url: str, *, example: str, variable: str) -> None:
    """Refuse what is no address of a server, and one that holds a secret. `group` is `scorer` for `scorer.url`.

    Raises:
        UserError: with an address, or a variable for the secret, to try.
    """
    if not re.match(r"https?://[^/]", url) or not _is_split(url):
        raise UserError(f"{group}.url = {url!r}; must be an address. Try {group}.url={example}.")
    if "@" in urlsplit(url).netloc or SECRET.search(urlsplit(url).query):
        raise UserError(f"{group}.url: holds a password or key, and configs are saved. {_typed(group, variable)}")


def check_variable(group: str, name: str | None, *, variable: str) -> None:
    """Refuse a name of no environment variable that is set; None is none. `variable` is an example of a name.

    Raises:
        UserError: without repeating what was typed, which may be the secret itself.
    """
    if name is not None and not os.environ.get(name):
        raise UserError(
            f"{group}.authorization: must be the name of an environment variable that is set; what was typed names none. "
            f"{_typed(group, variable)}"
        )


def retry_after(header: str | None) -> float | None:
    """Seconds that a header `Retry-After` asks for, as a number or a date; None where it says nothing that can be read."""
    try:
        return None if header is None else urllib3.Retry().parse_retry_after(header)
    except InvalidHeader:
        return None


def _typed(group: str, variable: str) -> str:
    return f"Type export {variable}='Bearer ...' in the shell, and {group}.authorization={variable}."


def _is_split(url: str) -> bool:
    """Whether an address has a host and, if any, a port that there is."""
    try:
        parts = urlsplit(url)
        return parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return False
