import json

from rlpost.tracking.sample import evenly, record_of, records_of
from rlpost.types import Group, Prompt, Span, Trajectory, Verdict


def _trajectory(**changes):
    fields = {
        "uid": "0:17",
        "sample": 3,
        "prompt_ids": (1, 2),
        "response_ids": (7, 8, 9),
        "rollout_logprobs": (-0.1, -0.2, -0.3),
        "spans": (Span(start=0, end=2, version=4), Span(start=2, end=3, version=5)),
        "finish_reason": "stop",
        "text": "6 ✓",
        "seed": 0,
        "verdicts": (Verdict(verifier="math", reward=1.0, latency_s=0.25),),
        "reward": 1.0,
    }
    return Trajectory(**{**fields, **changes})


PROMPT = Prompt(uid="0:17", token_ids=(1, 2), text="What is 2 * 3?")


def test_the_keys_on_disk_are_the_public_contract():
    row = json.loads(record_of(PROMPT, _trajectory()).to_json())
    keys = "uid, sample, prompt, response, reward, verdicts, finish_reason, num_tokens, spans"
    keys += ", written"
    assert ", ".join(row) == keys
    assert row["prompt"] == "What is 2 * 3?" and row["response"] == "6 ✓"
    assert row["num_tokens"] == 3
    assert row["spans"] == [
        {"start": 0, "end": 2, "version": 4},
        {"start": 2, "end": 3, "version": 5},
    ]
    assert row["verdicts"] == [
        {"verifier": "math", "reward": 1.0, "error": None, "latency_s": 0.25, "info": {}}
    ]


def test_a_failed_verifier_stays_null():
    verdict = Verdict(verifier="math", reward=None, error="timeout")
    row = json.loads(record_of(PROMPT, _trajectory(verdicts=(verdict,), reward=None)).to_json())
    assert row["reward"] is None and row["verdicts"][0]["error"] == "timeout"


def test_what_json_cannot_carry_is_still_one_valid_line():
    info = {"ratio": float("nan"), "kind": {1, 2}.__class__, "half": "\ud800", "line": "a\nb"}
    info |= {"\udc80": 1, "large": 10**5000}
    verdict = Verdict(verifier="math", reward=1.0, info=info)
    line = record_of(PROMPT, _trajectory(verdicts=(verdict,))).to_json()
    assert "\n" not in line
    line.encode()
    read = json.loads(line)["verdicts"][0]["info"]
    assert len(read.pop("large")) == 200
    assert read == {
        "ratio": None, "kind": "<class 'set'>", "half": "?", "line": "a\nb", "?": 1,
    }  # fmt: skip


def test_records_come_group_by_group():
    group = Group(prompt=PROMPT, trajectories=(_trajectory(sample=0), _trajectory(sample=1)))
    assert [each.sample for each in records_of([group, group])] == [0, 1, 0, 1]


def test_evenly_keeps_both_ends():
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 4) == [1, 2]
    assert evenly(range(10), 1) == [9]
