"""Whether the Hugging Face hub has something and can be reached, within seconds.

The libraries' own requests retry for 23 to 47 seconds before they give up.
"""

from __future__ import annotations

import queue
import threading
from typing import Literal

from alignkit.errors import UserError

REQUEST_SECONDS = 3.0
"""For the hub to answer that it has a model or data set."""
ANSWER_SECONDS = 6.0
"""For everything around it; a name server that is not there keeps the resolver waiting, and no time-out of a request covers that."""


def ask_hub(kind: Literal["model", "dataset"], name: str, where: str) -> str | None:
    """Why the hub cannot be asked; None when it answers that it has the model or data set.

    Raises:
        UserError: when the hub answers that it has not, or not for this user; `where` is the setting and its value.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            HfApi(endpoint=constants.ENDPOINT).repo_info(name, repo_type=kind, timeout=REQUEST_SECONDS)
            answers.put(None)
        except Exception as error:  # handed to the thread that waits
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        return f"no answer within {ANSWER_SECONDS:g} seconds"
    if isinstance(error, GatedRepoError):
        raise UserError(f"{where} is open only to those who asked. Ask on its page at {constants.ENDPOINT}, then type: hf auth login")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        thing = "data set" if kind == "dataset" else kind
        raise UserError(
            f"{where}: the hub has no such {thing}, or it is private. An id looks like owner/name; for a private one first: hf auth login"
        )
    return None if error is None else " ".join(str(error).split()) or type(error).__name__
