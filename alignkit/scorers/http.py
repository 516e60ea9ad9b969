"""`scorer=http`: a server that scores."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from alignkit.errors import UserError, check_range
from alignkit.scorers.addresses import LONGEST_PAUSE, check_address, check_variable, retry_after
from alignkit.scorers.returned import checked_scores, quoted
from alignkit.scorers.scorer import TextScorer

WORTH_ANOTHER_TRY = (429, 500, 502, 503, 504)
"""Statuses of servers that may do better in a moment."""
LONGEST_ANSWER = 2**26
"""Bytes."""
VARIABLE = "REWARD_AUTHORIZATION"
"""A name to try."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What a server said, whole."""

    status: int
    data: bytes
    retry_after: float | None
    """Seconds that it asks to be left alone."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Http(TextScorer):
    """What a server answers to `POST {"prompts": [...], "completions": [...]}`: `{"scores": [...]}`, one number for each completion.

    Statuses 429 and 5xx, connections that fail or break off and answers that are not there, whole, after `timeout` seconds are tried again;
    the n-th try after the second waits `backoff * 2^(n - 2)` seconds, or as long as the server's `Retry-After` says, at most two minutes.
    Redirects are not followed, proxies not used.
    """

    url: str
    """Where to; `http://` or `https://`."""
    batch: int
    """Completions of one request, >= 1."""
    timeout: float
    """Seconds that a try may take, from connecting to the last byte of the answer, > 0."""
    retries: int
    """Tries after the first one, >= 0."""
    backoff: float
    """Seconds, >= 0."""
    authorization: str | None
    """Name of the environment variable that holds the `Authorization` header, such as `Bearer ...`; the secret itself never stands in
    a config. Null sends none."""

    def __post_init__(self) -> None:
        check_address("scorer", self.url, example="http://127.0.0.1:8000/score", variable=VARIABLE)
        check_range("scorer.batch", self.batch, low=1)
        check_range("scorer.timeout", self.timeout, above=0.0)
        check_range("scorer.retries", self.retries, low=0)
        check_range("scorer.backoff", self.backoff, low=0.0)
        check_variable("scorer", self.authorization, variable=VARIABLE)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Raises:
        UserError: when the server cannot be reached, or answers anything but as many finite numbers.
        """
        scores: list[float] = []
        with urllib3.PoolManager(timeout=urllib3.Timeout(total=self.timeout), retries=False) as pool:
            for start in range(0, len(completions), self.batch):
                part = slice(start, start + self.batch)
                scores += self._ask(pool, list(prompts[part]), list(completions[part]))
        return scores

    def _ask(self, pool: urllib3.PoolManager, prompts: list[str], completions: list[str]) -> list[float]:
        where = f"scorer.url = {self.url!r}"
        told = self._answer(pool, {"prompts": prompts, "completions": completions})
        if isinstance(told, str):
            raise UserError(f"{where}: no answer after {self.retries + 1} tries of {self.timeout:g} s ({told}). Is the server running?")
        if told.status != 200:
            tries = f" after {self.retries + 1} tries" if told.status in WORTH_ANOTHER_TRY else ""
            raise UserError(f"{where}: answered {told.status}, {quoted(_text(told.data))}{tries}; must be 200 with {{'scores': [...]}}.")
        try:
            answer = json.loads(told.data)
        except (ValueError, RecursionError):
            answer = _text(told.data)
        if not isinstance(answer, dict) or "scores" not in answer:
            raise UserError(f"{where}: must answer a JSON object with 'scores'; answered {quoted(answer)}.")
        return checked_scores(where, answer["scores"], len(completions))

    def _answer(self, pool: urllib3.PoolManager, body: Mapping[str, object]) -> _Answer | str:
        """The first answer that no other try would better, else what the last try came to."""
        told = self._try(pool, body)
        for number in range(2, self.retries + 2):
            if isinstance(told, _Answer) and told.status not in WORTH_ANOTHER_TRY:
                break
            pause = self.backoff * 2 ** (number - 2) if number > 2 else 0.0
            if isinstance(told, _Answer) and told.retry_after is not None:
                pause = told.retry_after
            time.sleep(min(pause, LONGEST_PAUSE))
            told = self._try(pool, body)
        return told

    def _try(self, pool: urllib3.PoolManager, body: Mapping[str, object]) -> _Answer | str:
        """One request: its answer, or why there is none. In a thread: no time-out of a socket ends an answer that trickles."""
        answers: queue.Queue[_Answer | str] = queue.Queue()

        def ask() -> None:
            try:
                answers.put(self._request(pool, body))
            except (HTTPError, OSError, ValueError) as error:
                answers.put(str(getattr(error, "reason", None) or error) or type(error).__name__)

        threading.Thread(target=ask, daemon=True).start()
        try:
            return answers.get(timeout=self.timeout)
        except queue.Empty:
            return "timed out before the answer was whole"

    def _request(self, pool: urllib3.PoolManager, body: Mapping[str, object]) -> _Answer:
        headers = {} if self.authorization is None else {"Authorization": os.environ[self.authorization].strip()}
        response = pool.request("POST", self.url, json=body, headers=headers, redirect=False, preload_content=False)
        data = response.read(LONGEST_ANSWER + 1)
        if len(data) > LONGEST_ANSWER:
            response.close()
            raise ProtocolError(f"the answer is longer than {LONGEST_ANSWER:,} bytes")
        response.release_conn()
        return _Answer(status=response.status, data=data, retry_after=retry_after(response.headers.get("Retry-After")))


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
