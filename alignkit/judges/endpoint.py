"""A server of chat completions in OpenAI's format, asked with the official client: tries, pauses, limits.   Q questions

The client's own retries are off: those here are the only ones. They know answers that trickle, replies that are nonsense, and a budget.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from alignkit.errors import UserError
from alignkit.judges.completions import BadReply, Completion, question_size, read_completion
from alignkit.judges.spending import Exhausted, Spending
from alignkit.scorers.addresses import LONGEST_PAUSE, retry_after
from alignkit.scorers.returned import quoted

if TYPE_CHECKING:
    from openai import AsyncOpenAI

WORTH_ANOTHER_TRY = (408, 409, 425, 429)
"""Statuses below 500 of servers that may do better in a moment; so may all from 500."""
JITTER = 0.5
"""A pause is shortened by up to this share, so that clients that were turned away together do not come back together."""
AUTHORIZATION = "Authorization"
ACCOUNT = ("OpenAI-Organization", "OpenAI-Project")
"""Headers that are never sent: a key says whose account it is."""
HIDDEN = "[secret removed]"

Kept = Callable[[int, Completion], None]
"""Given a reply with the place of its question, as soon as it is there."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why a try came to nothing."""

    why: str
    status: int | None = None
    """None where there was no answer, whole and in time."""
    retry_after: float | None = None
    """Seconds that the server asks to be left alone."""

    @property
    def may_pass(self) -> bool:
        """Whether another try may do better."""
        return self.status is None or self.status in WORTH_ANOTHER_TRY or self.status >= 500


@final
@dataclass(kw_only=True, slots=True)
class _Pace:
    """When the next request may be sent."""

    interval: float
    """Seconds between two requests."""
    at: float = 0.0
    """Time of the loop's clock."""

    async def wait(self) -> None:
        """Until it is this request's turn."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self.at)
        self.at = turn + self.interval
        await asyncio.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Nobody asks before so many seconds have passed."""
        self.at = max(self.at, asyncio.get_running_loop().time() + seconds)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A server, and how it is asked. See the fields of `alignkit.judges.http.Http`."""

    url: str
    authorization: str | None = field(repr=False)
    """The secret itself, never shown; None to send none."""
    timeout: float
    retries: int
    backoff: float
    requests_per_minute: float | None
    concurrency: int
    reply_tokens: int
    """That a reply has at most."""
    spending: Spending

    def ask(self, requests: Sequence[Mapping[str, Any]], keep: Kept) -> list[Completion | BadReply]:
        """[Q] replies to the bodies of requests. On an error those that are in flight are waited for, and kept: they are paid for.

        Raises:
            UserError: when the server cannot be asked, or the budget is spent.
        """
        return asyncio.run(self._ask_all(requests, keep))

    async def _ask_all(self, requests: Sequence[Mapping[str, Any]], keep: Kept) -> list[Completion | BadReply]:
        replies: list[Completion | BadReply | None] = [None] * len(requests)
        errors: list[_Failure | Exhausted] = []
        pace = _Pace(interval=0.0 if self.requests_per_minute is None else 60.0 / self.requests_per_minute)
        places = iter(range(len(requests)))

        async def work(client: AsyncOpenAI) -> None:
            for place in _until(places, errors):
                told = await self._reply(client, requests[place], pace, errors)
                if isinstance(told, _Failure | Exhausted):
                    errors.append(told)
                elif told is not None:
                    replies[place] = told
                    if isinstance(told, Completion):
                        keep(place, told)

        async with self._client() as client:
            await asyncio.gather(*(work(client) for _ in range(min(self.concurrency, len(requests)))))
        if errors:
            answered = sum(reply is not None for reply in replies)
            raise UserError(f"{self._told(errors[0])} ({answered} of these {len(requests)} questions are answered.)")
        return [reply for reply in replies if reply is not None]

    async def _reply(
        self, client: AsyncOpenAI, body: Mapping[str, Any], pace: _Pace, errors: Sequence[object]
    ) -> Completion | BadReply | _Failure | Exhausted | None:
        """What the tries come to: a reply, the nonsense of the last try, or what ends the command; None where another question has ended
        it."""
        told: Completion | BadReply | _Failure | None = None
        for number in range(1, self.retries + 2):
            if number > 1:
                await asyncio.sleep(self._pause(number, told, pace))
            await pace.wait()
            if errors:
                return None
            if spent := self.spending.begin():
                return spent
            told = await self._try(client, body)
            if isinstance(told, Completion) or (isinstance(told, _Failure) and not told.may_pass):
                break
        return told

    def _told(self, error: _Failure | Exhausted) -> str:
        """What ended the command, for the user."""
        if isinstance(error, Exhausted):
            return self.spending.told(error)
        tries = f" after {self.retries + 1} tries" if error.may_pass else ""
        if error.status is None:
            return f"judge.url = {self.url!r}: no answer{tries} of {self.timeout:g} s ({error.why}). Is the server running?"
        return f"judge.url = {self.url!r}: answered {error.status}, {error.why}{tries}.{_advice(error.status)}"

    def _pause(self, number: int, told: Completion | BadReply | _Failure | None, pace: _Pace) -> float:
        """Seconds before a try, the second of which is number 2. What the server asks for holds for all questions."""
        asked = told.retry_after if isinstance(told, _Failure) else None
        if asked is not None:
            pace.hold(min(asked, LONGEST_PAUSE))
            return 0.0
        # Of its own generator: how long a run pauses must not change what it draws.
        pause: float = self.backoff * 2.0 ** (number - 2) * (1.0 - JITTER * random.SystemRandom().random())
        return min(pause, LONGEST_PAUSE)

    async def _try(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> Completion | BadReply | _Failure:
        """One request. The time that it may take is the loop's: no time-out of a socket ends an answer that trickles."""
        import openai

        size = question_size(body)
        # The client would send what the environment holds for OpenAI to any server.
        unsent = [*ACCOUNT, *([AUTHORIZATION] if self.authorization is None else [])]
        headers = dict.fromkeys(unsent, openai.Omit())
        told: Completion | BadReply | _Failure
        try:
            async with asyncio.timeout(self.timeout):
                answer = await client.chat.completions.with_raw_response.create(**body, extra_headers=headers)
                told = read_completion(answer.text)
        except openai.APIStatusError as error:
            said, asked = self._hidden(_text(error.response.content)), retry_after(error.response.headers.get("Retry-After"))
            return _Failure(status=error.status_code, why=quoted(said), retry_after=asked)
        except TimeoutError:
            told = _Failure(why="timed out before the answer was whole")
        except openai.OpenAIError as error:
            told = _Failure(why=self._hidden(f"{error.__cause__ or error}") or type(error.__cause__ or error).__name__)
        if isinstance(told, BadReply):
            told = BadReply(why=self._hidden(told.why), tokens=told.tokens)
        text = len(told.text.encode()) if isinstance(told, Completion) else self.reply_tokens
        self.spending.count(None if isinstance(told, _Failure) else told.tokens, size + text)
        return told

    def _client(self) -> AsyncOpenAI:
        """Redirects are not followed: they lead a secret elsewhere. Proxies and certificates are the client's business."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        return AsyncOpenAI(
            base_url=self.url,
            api_key=self.authorization or "none",
            max_retries=0,
            timeout=self.timeout,
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),
        )

    def _hidden(self, text: str) -> str:
        """What a server says, without the secret that it was shown."""
        return text.replace(self.authorization, HIDDEN) if self.authorization else text


def _until(places: Iterator[int], errors: Sequence[object]) -> Iterator[int]:
    """The places that nobody has taken yet, while all is well."""
    while not errors and (place := next(places, None)) is not None:
        yield place


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _advice(status: int) -> str:
    """What to do about a status that no other try would better."""
    return {
        400: " It does not take the request: see judge.model, judge.seed, judge.temperature and judge.length_key.",
        401: " It wants another key: set judge.authorization=NAME to the environment variable that holds it.",
        403: " The key that judge.authorization names may not do that.",
        404: " There is nothing at that address, or no such model: judge.url ends before /chat/completions; see judge.model.",
        429: " It is asked too often, or its account is empty: see judge.requests_per_minute and judge.concurrency.",
    }.get(status, "")
