"""Ready groups survive a checkpoint unchanged."""

import json

from episodes import episode, trajectory
from fakes import prompt

from rlpost.control.buffer import Ready
from rlpost.stages.sampling.ready_groups import from_records, to_records
from rlpost.types import Group, Verdict


def test_what_is_read_equals_what_was_written():
    entire = episode(
        trajectory((1, 90, 2), versions=[3, None, 4], logprobs=(-0.123456789012345, -1e-9)),
        trajectory((9,), prompt_ids=(5, 8), versions=4),
        uid="0:3",
        sample=1,
        finish_reason="length",
        text="é",
        seed=2**61 + 1,
        verdicts=(
            Verdict(verifier="math", reward=1.0, latency_s=0.5, info={"raw": 2.0}),
            Verdict(verifier="other", reward=None, error="timeout"),
        ),
        reward=None,
        interrupted=True,
    )
    group = Group(prompt=prompt("0:3"), episodes=(entire,))
    entries = [Ready(uid="0:3", order=7, version=3, group=group)]
    records = json.loads(json.dumps(to_records(entries)))
    assert from_records(records, find=prompt) == entries
