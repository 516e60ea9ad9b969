"""How long is waited between tries and between requests. What a server may do wrong is in `test_http`."""

from __future__ import annotations

import asyncio

from alignkit.judges.endpoint import Endpoint, _Failure, _Pace
from alignkit.judges.spending import Spending


def test_tries_wait_longer_each_time_and_not_all_alike() -> None:
    endpoint = Endpoint(
        url="",
        authorization=None,
        timeout=1.0,
        retries=9,
        backoff=0.5,
        requests_per_minute=None,
        concurrency=1,
        reply_tokens=1,
        spending=Spending(most_requests=None, most_tokens=None),
    )
    pauses = [[endpoint._pause(number, _Failure(why=""), _Pace(interval=0.0)) for _ in range(20)] for number in (2, 3, 4, 40)]
    for drawn, longest in zip(pauses, (0.5, 1.0, 2.0, 120.0), strict=True):
        assert all(longest / 2 <= pause <= longest for pause in drawn)
    assert len(set(pauses[0])) > 1


def test_requests_keep_their_distance() -> None:
    async def turns() -> list[float]:
        pace = _Pace(interval=0.02)
        loop = asyncio.get_running_loop()
        begun, times = loop.time(), []
        for _ in range(4):
            await pace.wait()
            times.append(loop.time() - begun)
        return times

    times = asyncio.run(turns())
    assert all(time >= 0.019 * number for number, time in enumerate(times))
