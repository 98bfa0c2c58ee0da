"""Ray jobs: submit a stage to a running cluster, follow it, stop it.

Owns the conversation with the cluster's dashboard. Refuses to own what a job is
(job_request.py), how it is followed (job_follow.py) and options (cli/submit.py). Invariants: a
job that runs is never submitted a second time under its name; every request has a deadline;
what the person can fix is a UserError.
"""

import asyncio
import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from rlpost.errors import InfrastructureError, UserError
from rlpost.launch.job_follow import JobEnd, Write, follow, how_it_ended
from rlpost.launch.job_request import NAME_KEY, JobRequest, next_id

REQUEST_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0


class Jobs:
    """The jobs of one cluster.

    Example::

        jobs = Jobs.at("http://127.0.0.1:8265")
        job = jobs.submit(request)
        end = jobs.follow(job, write=sys.stdout.write)
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

        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
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
        jobs = self._all()
        for other in jobs:
            if _name(other) == request.name and not other.status.is_terminal():
                raise UserError(
                    f"--name: a job named {request.name} is {other.status.lower()} as "
                    f"{other.submission_id}; follow it with `rlpost submit --follow "
                    f"{other.submission_id}`, stop it with `rlpost submit --stop "
                    f"{other.submission_id}`, or choose another --name"
                )
        try:
            job: str = self._client.submit_job(
                entrypoint=request.entrypoint,
                runtime_env=request.runtime_env,
                metadata={NAME_KEY: request.name},
                submission_id=next_id(request.name, [each.submission_id for each in jobs]),
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
        return job

    def find(self, job: str) -> str:
        """Return the id of ``job``: a name, which means the latest job of it, or an id.

        Raises:
            UserError: there is none.
        """
        jobs = self._all()
        named = [each for each in jobs if _name(each) == job]
        if named:
            return str(max(named, key=lambda each: each.start_time or 0).submission_id)
        if any(each.submission_id == job for each in jobs):
            return job
        running = [str(each.submission_id) for each in jobs if not each.status.is_terminal()]
        raise UserError(
            f"no job {job!r} at {self.address}; "
            f"{'running: ' + ', '.join(sorted(running)) if running else 'no job is running'}"
        )

    def follow(self, job: str, *, write: Write, skip: int = 0) -> JobEnd:
        """Write the log of ``job`` as it grows, until the job ends.

        Args:
            job: an id.
            write: is given the text, in pieces.
            skip: leave out so many characters at the beginning.

        Raises:
            InfrastructureError: the cluster does not answer any more; the job may go on.
        """
        return asyncio.run(follow(self._client, job, write=write, skip=skip))

    def log_length(self, job: str) -> int:
        """How many characters ``job`` has written so far."""
        return len(self._ask("get_job_logs", job))

    def stop(self, job: str) -> None:
        """Ask ``job`` to save and end; it goes on until it has, see ``JobRequest.stop_wait_s``.

        Raises:
            UserError: it has ended already.
        """
        info = self._ask("get_job_info", job)
        if info.status.is_terminal() or not self._ask("stop_job", job):
            raise UserError(f"job {job} does not run: it {how_it_ended(info)}")

    def _all(self) -> list[Any]:
        return [job for job in self._ask("list_jobs") if job.submission_id]

    def _ask(self, method: str, *args: Any) -> Any:
        import requests

        try:
            return getattr(self._client, method)(*args)
        except (requests.exceptions.RequestException, RuntimeError) as error:
            raise InfrastructureError(
                f"{self.address} did not answer {method}: {_first_line(error)}"
            ) from error


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
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        port = None
    if port is None or not parts.hostname:
        raise UserError(
            "--address must be that of the cluster's dashboard, for example "
            f"http://127.0.0.1:8265, got {address!r}"
        )
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"--address: nothing answers at {address} ({error}); start a cluster with "
            "RAY_AUTH_MODE=token and `ray start --head`, or give the address of its dashboard"
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
