"""`judge=http`, `http_rating`: a language model behind a server of chat completions in OpenAI's format."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, final

from alignkit.data.examples import Message
from alignkit.errors import UserError, check_choice, check_range
from alignkit.judges.asking import AskingJudge, JudgePrompts
from alignkit.judges.completions import FILTER, STOP, BadReply, Completion
from alignkit.judges.endpoint import Endpoint
from alignkit.judges.judge import Judge, JudgeSurroundings
from alignkit.judges.reply_cache import ReplyCache
from alignkit.judges.spending import Spending
from alignkit.judges.writer import Reply, Writer, WritingJudgeKind
from alignkit.scorers.addresses import check_address, check_variable

VARIABLE = "JUDGE_KEY"
"""A name to try."""
LENGTH_KEYS = ("max_tokens", "max_completion_tokens")
BEARER = "bearer "
FILTERED = "the server's content filter withheld it"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Http(WritingJudgeKind):
    """A model that answers to `POST url/chat/completions`, as OpenAI, vLLM, llama.cpp, Ollama and others do.

    Statuses 408, 409, 425, 429 and 5xx, connections that fail or break off, answers that are not there, whole, after `timeout` seconds,
    and answers that hold no reply are tried again. The n-th try waits `backoff * 2^(n - 2)` seconds, up to half of that less by chance, or
    as long as the server's `Retry-After` says, at most two minutes. A question that is answered with nonsense to the last has no reply and
    is counted as unread; any other failure ends the command. Finished replies are kept, by address, model, question and sampling.
    """

    url: str
    """The address before `/chat/completions`, such as `http://127.0.0.1:8000/v1`."""
    model: str
    """As the server calls it."""
    authorization: str | None
    """Name of the environment variable that holds the key, with or without `Bearer ` in front; the secret itself never stands in a
    config. Null sends none, not even OPENAI_API_KEY."""
    timeout: float
    """Seconds that a try may take, from connecting to the last byte of the answer, > 0."""
    retries: int
    """Tries after the first one, >= 0."""
    backoff: float
    """Seconds, >= 0."""
    requests_per_minute: float | None
    """At most, of this process, > 0; null for any number."""
    concurrency: int
    """Requests that are in flight together, >= 1."""
    budget_requests: int | None
    """Of one command, tries that fail included, >= 1; null for any number."""
    budget_tokens: int | None
    """Of one command, questions and replies, as the server reports them, >= 1; null for any number. Where it does not, bytes are counted,
    which are at least as many. Requests that are in flight when it is reached are finished."""
    temperature: float | None
    """0 for the most likely reply; null is not sent, for models that refuse it."""
    seed: int | None
    """Null is not sent, for servers that refuse it."""
    max_tokens: int
    """Of a judgement, >= 1. A reply that is longer is not finished."""
    length_key: str
    """What the server calls `max_tokens`: `max_completion_tokens` for newer models of OpenAI."""
    asks: str
    """This and what follows: see `JudgePrompts`."""
    system: str | None
    template: str
    lowest: float | None
    highest: float | None
    comparisons: int | None

    def __post_init__(self) -> None:
        if find_spec("openai") is None:
            raise UserError("judge=http needs the package openai. Type pip install 'alignkit[openai]'.")
        check_address("judge", self.url, example="http://127.0.0.1:8000/v1", variable=VARIABLE)
        if not self.model:
            raise UserError("judge.model = ''; must be what the server calls its model.")
        check_variable("judge", self.authorization, variable=VARIABLE)
        check_range("judge.timeout", self.timeout, above=0.0)
        check_range("judge.retries", self.retries, low=0, high=1000)
        check_range("judge.backoff", self.backoff, low=0.0)
        if self.requests_per_minute is not None:
            check_range("judge.requests_per_minute", self.requests_per_minute, above=0.0)
        check_range("judge.concurrency", self.concurrency, low=1, high=1000)
        for name, budget in (("budget_requests", self.budget_requests), ("budget_tokens", self.budget_tokens)):
            if budget is not None:
                check_range(f"judge.{name}", budget, low=1)
        if self.temperature is not None:
            check_range("judge.temperature", self.temperature, low=0.0, high=2.0)
        check_range("judge.max_tokens", self.max_tokens, low=1)
        check_choice("judge.length_key", self.length_key, LENGTH_KEYS)
        self._prompts()

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        return AskingJudge(writer=self.open_writer(surroundings), prompts=self._prompts())

    def open_writer(self, surroundings: JudgeSurroundings, *, max_tokens: int | None = None) -> Writer:
        reply_tokens = self.max_tokens if max_tokens is None else max_tokens
        secret = None if self.authorization is None else os.environ[self.authorization].strip()
        if secret is not None and secret.lower().startswith(BEARER):
            secret = secret[len(BEARER) :].strip()
        sampling = {"model": self.model, self.length_key: reply_tokens, "temperature": self.temperature, "seed": self.seed}
        return _HttpWriter(
            endpoint=Endpoint(
                url=self.url,
                authorization=secret,
                timeout=self.timeout,
                retries=self.retries,
                backoff=self.backoff,
                requests_per_minute=self.requests_per_minute,
                concurrency=self.concurrency,
                reply_tokens=reply_tokens,
                spending=Spending(most_requests=self.budget_requests, most_tokens=self.budget_tokens),
            ),
            sampling={key: value for key, value in sampling.items() if value is not None},
            cache=ReplyCache(surroundings.cache, surroundings.say),
            say=surroundings.say,
        )

    def _prompts(self) -> JudgePrompts:
        return JudgePrompts(
            asks=self.asks,
            system=self.system,
            template=self.template,
            lowest=self.lowest,
            highest=self.highest,
            comparisons=self.comparisons,
        )


@final
@dataclass(kw_only=True, slots=True)
class _HttpWriter:
    """An open endpoint."""

    endpoint: Endpoint
    sampling: dict[str, Any]
    """What every request holds beside its messages."""
    cache: ReplyCache
    say: Callable[[str], None]
    has_said: bool = field(default=False)
    """That tokens are counted in bytes."""

    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        bodies = [{**self.sampling, "messages": [{"role": turn.role, "content": turn.content} for turn in one]} for one in questions]
        digests = [self._digest(body) for body in bodies]
        replies = {digest: Reply(text=text, finished=True) for digest, text in self.cache.read(digests).items()}
        # A question that comes twice is asked once.
        missing = {digest: body for digest, body in zip(digests, bodies, strict=True) if digest not in replies}
        order = list(missing)

        def keep(place: int, reply: Completion) -> None:
            if reply.finish == STOP:
                replies[order[place]] = Reply(text=self.cache.write(order[place], reply.text), finished=True)

        if missing:
            told = self.endpoint.ask(list(missing.values()), keep)
            for digest, reply in zip(order, told, strict=True):
                replies.setdefault(digest, _unfinished(reply))
            self._say_how_counted()
        return [replies[digest] for digest in digests]

    def _digest(self, body: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps([self.endpoint.url, body], sort_keys=True).encode()).hexdigest()

    def _say_how_counted(self) -> None:
        spending = self.endpoint.spending
        if spending.most_tokens is not None and spending.bounded and not self.has_said:
            self.say(f"judge.budget_tokens: the server does not report all tokens, so bytes are counted in their place: {spending}.")
            self.has_said = True


def _unfinished(reply: Completion | BadReply) -> Reply:
    if isinstance(reply, BadReply):
        return Reply(text="", finished=False, refused=reply.why)
    return Reply(text=reply.text, finished=False, refused=FILTERED if reply.finish == FILTER else "")
