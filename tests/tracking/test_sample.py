import json

from episodes import episode, trajectory

from rlpost.tracking.sample import evenly, record_of, records_of
from rlpost.types import Group, Prompt, Verdict


def _episode(*trajectories, **changes):
    fields = {
        "uid": "0:17",
        "sample": 3,
        "text": "6 ✓",
        "verdicts": (Verdict(verifier="math", reward=1.0, latency_s=0.25),),
        "reward": 1.0,
    }
    return episode(
        *(trajectories or [trajectory((7, 8, 9), versions=[4, 4, 5])]), **fields | changes
    )


PROMPT = Prompt(uid="0:17", token_ids=(1, 2), text="What is 2 * 3?")


def test_the_keys_on_disk_are_the_public_contract():
    row = json.loads(record_of(PROMPT, _episode()).to_json())
    keys = "uid, sample, prompt, response, reward, verdicts, finish_reason, num_tokens, spans"
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


def test_the_tokens_of_all_trajectories_are_counted_and_those_that_were_sampled_are_marked():
    first = trajectory((7, 90, 91, 8), versions=[4, None, None, 4])
    row = json.loads(record_of(PROMPT, _episode(first, trajectory((9,), versions=5))).to_json())
    assert row["num_tokens"] == 5
    assert row["spans"] == [
        {"start": 0, "end": 1, "version": 4},
        {"start": 3, "end": 4, "version": 4},
        {"start": 4, "end": 5, "version": 5},
    ]


def test_a_failed_verifier_stays_null():
    verdict = Verdict(verifier="math", reward=None, error="timeout")
    row = json.loads(record_of(PROMPT, _episode(verdicts=(verdict,), reward=None)).to_json())
    assert row["reward"] is None and row["verdicts"][0]["error"] == "timeout"


def test_what_json_cannot_carry_is_still_one_valid_line():
    info = {"ratio": float("nan"), "kind": {1, 2}.__class__, "half": "\ud800", "line": "a\nb"}
    info |= {"\udc80": 1, "large": 10**5000}
    verdict = Verdict(verifier="math", reward=1.0, info=info)
    line = record_of(PROMPT, _episode(verdicts=(verdict,))).to_json()
    assert "\n" not in line
    line.encode()
    read = json.loads(line)["verdicts"][0]["info"]
    assert len(read.pop("large")) == 200
    assert read == {
        "ratio": None, "kind": "<class 'set'>", "half": "?", "line": "a\nb", "?": 1,
    }  # fmt: skip


def test_records_come_group_by_group():
    group = Group(prompt=PROMPT, episodes=(_episode(sample=0), _episode(sample=1)))
    assert [each.sample for each in records_of([group, group])] == [0, 1, 0, 1]


def test_evenly_keeps_both_ends():
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 4) == [1, 2]
    assert evenly(range(10), 1) == [9]
