"""Following a Ray job: its log as it grows, and how it ended.

Owns the patience with a dashboard that is away for a moment. Refuses to own which job
(jobs.py). Invariant: each character of the log is written once, however often it is read from
its beginning.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from rlpost.errors import InfrastructureError
from rlpost.launch.job_request import ended_with

SILENCE_TIMEOUT_S = 120.0  # a dashboard that does not answer for so long is gone
POLL_S = 1.0

Write = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended.

    Example: ``JobEnd(exit_code=1, message="job a was killed by signal 9; ...")``
    """

    exit_code: int  # 0, 1, 2, 3 or 130, as of the stage itself
    message: str | None  # what to add when the run could not say it itself


async def follow(client: Any, job: str, *, write: Write, skip: int) -> JobEnd:
    """Write the log of ``job`` until it ends; see ``Jobs.follow``."""
    shown = Shown(write, skip=skip)
    tail = asyncio.create_task(_tail(client, job, shown))
    try:
        while not (info := await _ask(client.get_job_info, job)).status.is_terminal():
            await asyncio.sleep(POLL_S)
    finally:
        tail.cancel()
        await asyncio.gather(tail, return_exceptions=True)
    # The tail may have missed the last lines, or lost its connection.
    text = await _ask(client.get_job_logs, job)
    shown.restart()
    shown.add(text)
    return end_of(job, info, reported=ended_with(text))


async def _tail(client: Any, job: str, shown: "Shown") -> None:
    """Show the log while it grows; whoever knows that the job ended cancels this."""
    import aiohttp

    lost = retry_if_exception_type((aiohttp.ClientError, RuntimeError, OSError))
    while True:
        async for attempt in AsyncRetrying(retry=lost, wait=wait_fixed(POLL_S)):
            with attempt:
                shown.restart()
                async for text in client.tail_job_logs(job):
                    shown.add(text)
        await asyncio.sleep(POLL_S)  # the dashboard closed the connection in good order


async def _ask(question: Callable[[str], Any], job: str) -> Any:
    """Ask the dashboard, again if it is away or cannot answer.

    Raises:
        InfrastructureError: for too long.
    """
    import requests

    away = (requests.exceptions.RequestException, RuntimeError)  # Ray's of every bad status
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(away),
        stop=stop_after_delay(SILENCE_TIMEOUT_S),
        wait=wait_fixed(POLL_S),
        reraise=True,
    )
    try:
        return await retrying(asyncio.to_thread, question, job)
    except away as error:
        raise InfrastructureError(
            f"the cluster's dashboard has not answered for {SILENCE_TIMEOUT_S:g} s ({error}); the "
            f"job may go on: follow it again with `rlpost submit --follow {job}`"
        ) from error


class Shown:
    """What was written of a log that is read from its beginning again and again.

    Args:
        write: is given the new text.
        skip: so many characters count as written.
    """

    def __init__(self, write: Write, *, skip: int = 0) -> None:
        self._write = write
        self._written = skip
        self._read = 0

    def restart(self) -> None:
        """The log is read from its beginning now."""
        self._read = 0

    def add(self, text: str) -> None:
        """``text`` comes next in the log."""
        new = text[max(0, self._written - self._read) :]
        self._read += len(text)
        if new:
            self._written = self._read
            self._write(new)


def end_of(job: str, info: Any, *, reported: int | None) -> JobEnd:
    """Translate Ray's record of a job that ended into our exit codes.

    Args:
        job: its id.
        info: Ray's ``JobDetails``.
        reported: what the run itself said last, see ``ended_with``.
    """
    code = info.driver_exit_code if reported is None else reported
    if code in (0, 1, 2, 3, 130):
        return JobEnd(exit_code=int(code), message=None)
    again = "submit the same command again to go on from its last checkpoint"
    return JobEnd(exit_code=1, message=f"job {job} {how_it_ended(info)}; {again}")


def how_it_ended(info: Any) -> str:
    """Say it in a few words, as the predicate of a sentence."""
    status, code = info.status.lower(), info.driver_exit_code
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    if status == "stopped":
        return "was stopped"
    if status == "failed" and code is None:
        reason = (info.message or "Ray gives no reason").strip().splitlines()[0]
        return f"failed: {reason[:300]}"
    return f"{status} (exit code {code})"
