"""A dashboard that is away for a moment ends nothing."""

from types import SimpleNamespace

import pytest

from rlpost.errors import InfrastructureError
from rlpost.launch import job_follow
from rlpost.launch.job_follow import follow

JOB = "run-1"


class Client:
    """The three calls of Ray's client; the first ``refusals`` questions are refused as by it."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def _ask(self):
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("Request failed with status code 500: GCS timed out")

    def get_job_info(self, job):
        self._ask()
        status = SimpleNamespace(is_terminal=lambda: True, lower=lambda: "succeeded")
        return SimpleNamespace(status=status, driver_exit_code=0, message=None)

    def get_job_logs(self, job):
        self._ask()
        return "step 1\n"

    async def tail_job_logs(self, job):
        yield "step 1\n"


async def test_a_bad_answer_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(job_follow, "POLL_S", 0.01)
    said = []
    end = await follow(Client(refusals=3), JOB, write=said.append, skip=0)
    assert end.exit_code == 0 and "".join(said) == "step 1\n"


async def test_a_dashboard_that_never_answers_is_named_with_the_way_back(monkeypatch):
    monkeypatch.setattr(job_follow, "POLL_S", 0.01)
    monkeypatch.setattr(job_follow, "SILENCE_TIMEOUT_S", 0.05)
    with pytest.raises(InfrastructureError, match=r"GCS timed out.*rlpost submit --follow run-1"):
        await follow(Client(refusals=10_000), JOB, write=lambda text: None, skip=0)
