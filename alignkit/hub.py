"""Whether the Hugging Face hub has something and can be reached, within seconds.

The libraries' own requests retry for 23 to 47 seconds before they give up.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from typing import Literal

from alignkit.errors import UserError

REQUEST_SECONDS = 3.0
"""For the hub to answer that it has a model or data set."""
ANSWER_SECONDS = 6.0
"""For everything around it; a name server that is not there keeps the resolver waiting, and no time-out of a request covers that."""
UNAUTHORIZED, FORBIDDEN = 401, 403
QUERY = re.compile(r"(?<=[\w/])\?[^\s'\"<>)]+")
PASSWORD = re.compile(r"//[^\s/@]+@")


def ask_hub(kind: Literal["model", "dataset"], name: str, where: str) -> str | None:
    """Why the hub cannot be asked; None when it answers that it has the model or data set.

    Raises:
        UserError: when the hub answers that it has not, or not for this user; `where` is the setting and its value.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        error = answered(lambda: HfApi(endpoint=constants.ENDPOINT).repo_info(name, repo_type=kind, timeout=REQUEST_SECONDS))
    except TimeoutError as silence:
        return str(silence)
    if isinstance(error, GatedRepoError):
        raise UserError(f"{where} is open only to those who asked. Ask on its page at {constants.ENDPOINT}, then type: hf auth login")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        thing = "data set" if kind == "dataset" else kind
        raise UserError(
            f"{where}: the hub has no such {thing}, or it is private. An id looks like owner/name; for a private one first: hf auth login"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (UNAUTHORIZED, FORBIDDEN):
        raise UserError(f"{where}: the hub lets nobody without the right access token have it ({first_line(error)}). Type: hf auth login")
    return None if error is None else first_line(error)


def check_upload(where: str, name: str) -> None:
    """Refuse an upload that cannot begin: to an impossible name, without a token that the hub knows, or without the hub.

    Raises:
        UserError: saying what to type; `where` is the setting.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    opening = f"{where} = {name!r}"
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{opening}: cannot name a repository ({error}). It looks like owner/name.") from None
    if "/" not in name:
        raise UserError(f"{opening}: whose repository? It looks like owner/{name}.")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{opening}: HF_HUB_OFFLINE is set, so that nothing reaches the hub. Unset it, or leave {where} out.")
    token = get_token()
    if token is None:
        raise UserError(f"{opening}: there is no access token. Type hf auth login, or set HF_TOKEN to one that may write.")
    try:
        trouble = answered(lambda: HfApi(endpoint=constants.ENDPOINT).whoami(token))
    except TimeoutError as silence:
        trouble = silence
    if isinstance(trouble, HfHubHTTPError) and trouble.response.status_code == UNAUTHORIZED:
        raise UserError(f"{opening}: the hub does not know the access token. Type hf auth login, or set HF_TOKEN to another.")
    if trouble is not None:
        raise UserError(f"{opening}: the hub cannot be reached ({first_line(trouble)}).")


def answered(request: Callable[[], object]) -> Exception | None:
    """How a request ended: None when the hub said yes, else what the library made of it.

    Raises:
        TimeoutError: when it did not end in time.
    """
    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            request()
            answers.put(None)
        except Exception as error:  # handed to the thread that waits
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} seconds") from None


def first_line(error: BaseException) -> str:
    """A library's complaint on one line, without what its addresses hold of secrets: signed links, and passwords."""
    plain = QUERY.sub("", PASSWORD.sub("//", " ".join(str(error).split())))
    return plain[:300] or type(error).__name__
