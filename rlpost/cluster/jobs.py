"""Ray jobs: submit a stage to a running cluster, follow it, stop it.

Owns the conversation with the cluster's dashboard. Refuses to own what a job is
(job_request.py) and options (cli/submit.py). Invariants: a job that runs is never submitted
a second time under its name; every request has a deadline; what the person can fix is a
UserError.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from rlpost.cluster.job_request import NAME_KEY, JobRequest, ended_with, next_id
from rlpost.errors import InfrastructureError, RunFailed, UserError

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 120.0  # a dashboard that does not answer for so long is gone
POLL_S = 2.0

Write = Callable[[str], object]


class Jobs:
    """The jobs of one cluster.

    Example::

        jobs = Jobs.at("http://127.0.0.1:8265")
        job = jobs.submit(request)
        code = jobs.follow(job, write=sys.stdout.write)
    """

    def __init__(self, client: Any, *, address: str) -> None:
        self._client = client
        self.address = address

    @classmethod
    def at(cls, address: str) -> "Jobs":
        """Connect to the dashboard at ``address``.

        Raises:
            UserError: nobody answers, the token is wrong, or it is another Ray version.
        """
        _require_listener(address)
        # Ray lets its own variables override the address that it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        import ray
        import requests
        from ray.exceptions import AuthenticationError

        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            client = _client(address)
            theirs = client._server_ray_version  # the SDK asks for it and shows it nowhere
        except AuthenticationError as error:
            raise UserError(_token_advice(address, str(error))) from error
        except (requests.exceptions.RequestException, ConnectionError, RuntimeError) as error:
            raise UserError(
                f"--address: {address} does not answer like a Ray dashboard "
                f"({_first_line(error)}); `ray start --head` prints the right address"
            ) from error
        if theirs != ray.__version__:
            raise UserError(
                f"the cluster at {address} runs Ray {theirs} and this is Ray {ray.__version__}: "
                "submit from an environment with the cluster's version"
            )
        return cls(client, address=address)

    def submit(self, request: JobRequest) -> str:
        """Submit ``request``; returns the job's id.

        Raises:
            UserError: a job of that name runs, or the working directory cannot be uploaded.
        """
        request.check()
        jobs = [job for job in self._client.list_jobs() if job.submission_id]
        for job in jobs:
            if _name(job) == request.name and not job.status.is_terminal():
                raise UserError(
                    f"--name: a job named {request.name} is {job.status.lower()} as "
                    f"{job.submission_id}; follow it with `rlpost submit --follow "
                    f"{job.submission_id}`, stop it with `rlpost submit --stop "
                    f"{job.submission_id}`, or choose another --name"
                )
        try:
            return self._client.submit_job(
                entrypoint=request.entrypoint,
                runtime_env=request.runtime_env,
                metadata={NAME_KEY: request.name},
                submission_id=next_id(request.name, [job.submission_id for job in jobs]),
            )
        except (ValueError, RuntimeError) as error:
            if "already exists" in str(error):
                raise UserError(
                    f"--name: somebody else submitted {request.name} at the same moment; "
                    "choose another --name"
                ) from error
            if "Package size" in str(error):
                raise UserError(
                    f"--working-dir: {request.working_dir} is too large to upload "
                    f"({_first_line(error)}); list what the job does not read in .rayignore, and "
                    "give large data by its absolute path on storage that the cluster sees"
                ) from error
            raise InfrastructureError(f"the cluster refused the job: {error}") from error

    def find(self, job: str) -> str:
        """Return the id of ``job``: itself an id, or a name, which means its latest job.

        Raises:
            UserError: there is none.
        """
        jobs = [each for each in self._client.list_jobs() if each.submission_id]
        if any(each.submission_id == job for each in jobs):
            return job
        named = [each for each in jobs if _name(each) == job]
        if named:
            return str(max(named, key=lambda each: each.start_time or 0).submission_id)
        running = [str(each.submission_id) for each in jobs if not each.status.is_terminal()]
        raise UserError(
            f"no job {job!r} at {self.address}; "
            f"{'running: ' + ', '.join(sorted(running)) if running else 'no job is running'}"
        )

    def follow(self, job: str, *, write: Write, skip: int = 0) -> int:
        """Write the logs of ``job`` as they come, until it ends; returns its exit code.

        Args:
            job: an id.
            write: is given the text, in pieces.
            skip: leave out so many characters at the beginning.

        Raises:
            RunFailed: it ended without an exit code of its own.
            InfrastructureError: the cluster does not answer any more; the job may go on.
        """
        return asyncio.run(self._follow(job, write, skip))

    def logs_length(self, job: str) -> int:
        """How many characters ``job`` has written so far."""
        return len(self._client.get_job_logs(job))

    def stop(self, job: str) -> None:
        """Ask ``job`` to save and end; it goes on until it has, see ``JobRequest.stop_wait_s``.

        Raises:
            UserError: it has ended already.
        """
        info = self._client.get_job_info(job)
        if info.status.is_terminal() or not self._client.stop_job(job):
            raise UserError(f"job {job} does not run: it {_ended(info)}")

    # -- following --------------------------------------------------------------------------

    async def _follow(self, job: str, write: Write, skip: int) -> int:
        shown = _Shown(write, skip)
        tail = asyncio.create_task(self._tail(job, shown))
        try:
            info = await self._end_of(job)
        finally:
            tail.cancel()
            await asyncio.gather(tail, return_exceptions=True)
        # The tail may have missed the last lines, or the connection.
        logs = await self._ask(self._client.get_job_logs, job)
        shown.restart()
        shown.add(logs)
        return _exit_code(job, info, ended_with(logs))

    async def _tail(self, job: str, shown: "_Shown") -> None:
        """Show the logs while they grow; cancelled when the job ends."""
        import aiohttp

        lost = retry_if_exception_type((aiohttp.ClientError, RuntimeError, OSError))
        while True:
            async for attempt in AsyncRetrying(retry=lost, wait=wait_fixed(POLL_S)):
                with attempt:
                    shown.restart()
                    async for text in self._client.tail_job_logs(job):
                        shown.add(text)
            await asyncio.sleep(POLL_S)  # the dashboard closed the connection in good order

    async def _end_of(self, job: str) -> Any:
        while True:
            info = await self._ask(self._client.get_job_info, job)
            if info.status.is_terminal():
                return info
            await asyncio.sleep(POLL_S)

    async def _ask(self, question: Callable[[str], Any], job: str) -> Any:
        """Ask the dashboard; it may be away for a moment."""
        import requests

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(requests.exceptions.RequestException),
            stop=stop_after_delay(SILENCE_TIMEOUT_S),
            wait=wait_fixed(POLL_S),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await asyncio.to_thread(question, job)
        except requests.exceptions.RequestException as error:
            raise InfrastructureError(
                f"{self.address} has not answered for {SILENCE_TIMEOUT_S:g} s; the job may go on: "
                f"follow it again with `rlpost submit --follow {job}`"
            ) from error
        raise AssertionError("unreachable: the last attempt re-raises")


class _Shown:
    """Writes each character of a log once, however often it is read from the beginning."""

    def __init__(self, write: Write, skip: int) -> None:
        self._write = write
        self._written = skip
        self._read = 0

    def restart(self) -> None:
        self._read = 0

    def add(self, text: str) -> None:
        new = text[max(0, self._written - self._read) :]
        self._read += len(text)
        if new:
            self._written = self._read
            self._write(new)


def _exit_code(job: str, info: Any, reported: int | None) -> int:
    """Translate how a job ended into our exit codes.

    Raises:
        RunFailed: the run did not end by itself.
    """
    code = info.driver_exit_code if reported is None else reported
    if code in (0, 1, 2, 130):
        return int(code)
    raise RunFailed(
        f"job {job} {_ended(info)}; submit the same command again to go on from its last checkpoint"
    )


def _ended(info: Any) -> str:
    status, code = info.status.lower(), info.driver_exit_code
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    if status == "stopped":
        return "was stopped and had no time to save"
    if status == "failed" and code is None:
        return f"failed: {_first_line(info.message or 'Ray gives no reason')}"
    return f"{status} (exit code {code})"


def _name(job: Any) -> str | None:
    return (job.metadata or {}).get(NAME_KEY)


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's client, with a deadline for each request."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            options.setdefault("timeout", REQUEST_TIMEOUT_S)
            return super()._do_request(method, endpoint, **options)

    return Client(address)


def _require_listener(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "--address must be that of the cluster's dashboard, for example "
            f"http://127.0.0.1:8265, got {address!r}"
        )
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"--address: nothing answers at {address} ({error}); start a cluster with "
            "`ray start --head`, or give the address of its dashboard"
        ) from error


def _token_advice(address: str, error: str) -> str:
    if "invalid or incorrect" in error:
        return (
            f"the cluster at {address} refuses the token: set RAY_AUTH_TOKEN, or the file named "
            "by RAY_AUTH_TOKEN_PATH, to the one that it was started with"
        )
    return (
        f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
        "or RAY_AUTH_TOKEN_PATH to the one that it was started with"
    )


def _first_line(error: object) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:300]
