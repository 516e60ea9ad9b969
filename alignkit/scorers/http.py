"""`scorer=http`: a server that scores."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import urllib3
from urllib3.exceptions import HTTPError

from alignkit.errors import UserError, check_range
from alignkit.scorers.returned import checked_scores, quoted
from alignkit.scorers.scorer import TextScorer

WORTH_ANOTHER_TRY = (429, 500, 502, 503, 504)
"""Statuses of servers that may do better in a moment."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Http(TextScorer):
    """What a server answers to `POST {"prompts": [...], "completions": [...]}`: `{"scores": [...]}`, one number for each completion.

    Statuses 429 and 5xx, connections that fail or break off and answers that take too long are tried again; the n-th try after the
    second waits `backoff * 2^(n - 2)` seconds, or as long as the server's `Retry-After` says. Redirects are not followed, proxies not used.
    """

    url: str
    """Where to; `http://` or `https://`."""
    batch: int
    """Completions of one request, >= 1."""
    timeout: float
    """Seconds that a connection and each wait for an answer may take, > 0."""
    retries: int
    """Tries after the first one, >= 0."""
    backoff: float
    """Seconds, >= 0."""
    authorization: str | None
    """Name of the environment variable that holds the `Authorization` header, such as `Bearer ...`; the secret itself never stands in
    a config. Null sends none."""

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.url):
            raise UserError(f"scorer.url = {self.url!r}; must be an address. Try scorer.url=http://127.0.0.1:8000/score.")
        check_range("scorer.batch", self.batch, low=1)
        check_range("scorer.timeout", self.timeout, above=0.0)
        check_range("scorer.retries", self.retries, low=0)
        check_range("scorer.backoff", self.backoff, low=0.0)
        if self.authorization is not None and not os.environ.get(self.authorization):
            # What was typed may be the secret itself.
            raise UserError(
                "scorer.authorization: must be the name of an environment variable that is set; what was typed names none. Type export "
                "REWARD_AUTHORIZATION='Bearer ...' in the shell, and scorer.authorization=REWARD_AUTHORIZATION."
            )

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Raises:
        UserError: when the server cannot be reached, or answers anything but as many finite numbers.
        """
        scores: list[float] = []
        with urllib3.PoolManager(timeout=urllib3.Timeout(total=self.timeout), retries=self._retry()) as pool:
            for start in range(0, len(completions), self.batch):
                part = slice(start, start + self.batch)
                scores += self._ask(pool, list(prompts[part]), list(completions[part]))
        return scores

    def _retry(self) -> urllib3.Retry:
        return urllib3.Retry(
            total=self.retries,
            redirect=False,
            backoff_factor=self.backoff,
            status_forcelist=WORTH_ANOTHER_TRY,
            allowed_methods=None,  # a score may be asked for twice, so POST too
            raise_on_status=False,
        )

    def _ask(self, pool: urllib3.PoolManager, prompts: list[str], completions: list[str]) -> list[float]:
        where = f"scorer.url = {self.url!r}"
        headers = {} if self.authorization is None else {"Authorization": os.environ[self.authorization].strip()}
        body = {"prompts": prompts, "completions": completions}
        try:
            response = pool.request("POST", self.url, json=body, headers=headers, redirect=False)
        except HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(f"{where}: no answer after {self.retries + 1} tries ({reason}). Is the server running?") from None
        if response.status != 200:
            raise UserError(f"{where}: answered {response.status}, {quoted(_text(response.data))}; must be 200 with {{'scores': [...]}}.")
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = _text(response.data)
        if not isinstance(answer, dict) or "scores" not in answer:
            raise UserError(f"{where}: must answer a JSON object with 'scores'; answered {quoted(answer)}.")
        return checked_scores(where, answer["scores"], len(completions))


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
