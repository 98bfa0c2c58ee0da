"""Ready groups survive a checkpoint unchanged."""

import json

from fakes import prompt

from rlpost.control.buffer import Ready
from rlpost.stages.rl.ready_groups import from_records, to_records
from rlpost.types import Group, Span, Trajectory, Verdict


def test_what_is_read_equals_what_was_written():
    trajectory = Trajectory(
        uid="0:3",
        sample=1,
        prompt_ids=(5, 6, 7),
        response_ids=(1, 2),
        rollout_logprobs=(-0.123456789012345, -1e-9),
        spans=(Span(start=0, end=1, version=3), Span(start=1, end=2, version=4)),
        finish_reason="length",
        text="é",
        seed=2**61 + 1,
        verdicts=(
            Verdict(verifier="math", reward=1.0, latency_s=0.5, info={"raw": 2.0}),
            Verdict(verifier="other", reward=None, error="timeout"),
        ),
        reward=None,
        written=(1, 2),
    )
    group = Group(prompt=prompt("0:3"), trajectories=(trajectory,))
    entries = [Ready(uid="0:3", order=7, version=3, group=group)]
    records = json.loads(json.dumps(to_records(entries)))
    assert from_records(records, find=prompt) == entries
