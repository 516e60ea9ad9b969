"""What questions to a server have cost, and when that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Exhausted:
    """A budget that is spent."""

    key: str
    """`budget_requests` or `budget_tokens`."""
    most: int


@final
@dataclass(kw_only=True, slots=True)
class Spending:
    """Requests and tokens of one command, against what they may be.

    A request counts when it is sent, tries that fail included. Where the server does not report tokens, as for tries that break off, an
    upper bound is counted: a budget that is kept by too little is none.
    """

    most_requests: int | None
    """`judge.budget_requests`; None for any number."""
    most_tokens: int | None
    """`judge.budget_tokens`; None for any number. Requests that are in flight when it is reached are finished."""
    requests: int = 0
    reported: int = 0
    """Tokens of questions and replies, as the server counts them."""
    bounded: int = 0
    """Upper bounds on those that it did not count."""

    @property
    def tokens(self) -> int:
        """At most so many."""
        return self.reported + self.bounded

    def begin(self) -> Exhausted | None:
        """Count a request that is about to be sent; where it must not be, the budget that forbids it."""
        budgets = {"budget_requests": (self.requests, self.most_requests), "budget_tokens": (self.tokens, self.most_tokens)}
        for key, (spent, most) in budgets.items():
            if most is not None and spent >= most:
                return Exhausted(key=key, most=most)
        self.requests += 1
        return None

    def told(self, budget: Exhausted) -> str:
        """What a user is told at the end, when nothing is in flight any more."""
        return (
            f"judge.{budget.key} = {budget.most}: the budget is spent: {self}. What was answered is kept. To go on, type the command again "
            f"with resume=DIR and a higher judge.{budget.key}: what was answered is not asked again and costs nothing."
        )

    def count(self, reported: int | None, at_most: int) -> None:
        """Count the tokens of a request that has come to its end."""
        if reported is None:
            self.bounded += at_most
        else:
            self.reported += reported

    def __str__(self) -> str:
        said = f"{self.requests:,} requests, {self.tokens:,} tokens"
        return said if not self.bounded else f"{said} ({self.bounded:,} of them not reported by the server: an upper bound, in bytes)"
