import json
import math

import numpy as np
import pytest

from rlpost.errors import DataError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.workers.safe_call import attempt, reply_of
from rlpost.verifiers.workers.wire import MAX_REPLY_BYTES

SAMPLE = Sample(prompt="q", text="a")


def _reply(score):
    reply = reply_of(lambda sample: score, SAMPLE)
    assert len(json.dumps(reply)) < MAX_REPLY_BYTES
    return reply


def _raising(error):
    def judge(sample):
        raise error

    return reply_of(judge, SAMPLE)


@pytest.mark.parametrize("score", [1, 1.0, True, np.float32(1), np.int64(1), {"reward": 1.0}])
def test_numbers_are_rewards(score):
    assert _reply(score) == {"reward": 1.0, "error": None, "info": {}}


@pytest.mark.parametrize(
    ("score", "error"),
    [
        (math.nan, "ValueError: the verifier returned nan"),
        (math.inf, "ValueError: the verifier returned inf"),
        ("1.0", "TypeError: the verifier returned str"),
        ([1.0], "TypeError: the verifier returned list"),
        (1 + 0j, "TypeError: the verifier returned complex"),
        (lambda: 1, "TypeError: the verifier returned function"),
        ({"score": 1.0}, "TypeError: the verifier returned a dict without 'reward'"),
        (10**400, "OverflowError"),
    ],
)
def test_anything_else_is_an_error(score, error):
    reply = _reply(score)
    assert reply["reward"] is None
    assert reply["error"].startswith(error)


def test_none_abstains():
    assert _reply(None)["error"] == "abstained"
    assert _reply({"reward": None, "why": "no gold"}) == {
        "reward": None,
        "error": "abstained",
        "info": {"why": "no gold"},
    }


def test_information_is_bounded_and_plain():
    huge = {str(i): "x" * 10**5 for i in range(100)}
    info = _reply({"reward": 1.0, "f": lambda: 1, "nan": math.nan, "big": 10**30} | huge)["info"]
    assert len(info) <= 20
    assert all(len(value) <= 500 for value in info.values())
    assert info["nan"] == "nan"


class _Evil(Exception):
    def __str__(self):
        raise RuntimeError("even this")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no (test_safe_call.py:"),
        (SystemExit(3), "SystemExit: 3 (test_safe_call.py:"),
        (KeyboardInterrupt(), "KeyboardInterrupt (test_safe_call.py:"),
        (DataError("f.jsonl:3: bad"), "DataError: f.jsonl:3: bad"),
        (ValueError("x" * 10**6), "ValueError: xxx"),
    ],
)
def test_exceptions_are_errors(error, text):
    reply = _raising(error)
    assert reply["reward"] is None
    assert reply["error"].startswith(text)
    assert len(reply["error"]) < 1000


def test_exception_that_cannot_be_printed():
    assert "_Evil" in _raising(_Evil())["error"]


class _Source:
    def get_source(self, name):
        raise SystemExit("while the traceback is read")


def test_exception_that_cannot_be_described():
    scope = {"__loader__": _Source(), "__name__": "odd"}
    code = compile("def judge(sample): raise ValueError", "no such file", "exec")
    exec(code, scope)
    assert "cannot be described" in reply_of(scope["judge"], SAMPLE)["error"]


def test_error_is_bounded_whatever_the_file_is_called():
    scope = {}
    exec(compile("def judge(sample): raise ValueError", "x" * 10**6, "exec"), scope)
    assert len(reply_of(scope["judge"], SAMPLE)["error"]) <= 1000


class _Liar:
    """Claims to be what it is not, and raises what no ``except Exception`` catches."""

    def __init__(self, claimed):
        self.claimed = claimed

    @property
    def __class__(self):
        return self.claimed

    def __float__(self):
        raise KeyboardInterrupt

    __int__ = __abs__ = __float__


@pytest.mark.parametrize("claimed", [float, int, str, bool, dict, type(None), list])
def test_objects_that_lie_about_their_class_are_errors(claimed):
    assert _reply(_Liar(claimed))["reward"] is None
    reply = _reply({"reward": 1.0, "x": _Liar(claimed)})
    json.dumps(reply)
    assert reply["reward"] is None or isinstance(reply["info"]["x"], str)


def test_information_can_be_written_to_a_file():
    reply = _reply({"reward": 1.0, "a\ud800": "\udfff", "c": "\U0001f600"})
    assert reply["info"] == {"a?": "?", "c": "\U0001f600"}


def test_deep_recursion_is_an_error():
    def judge(sample):
        return judge(sample)

    assert reply_of(judge, SAMPLE)["error"].startswith("RecursionError")


def test_attempt_returns_results():
    assert attempt(lambda: 7) == (7, None)


def test_information_that_cannot_be_shown_costs_no_reward():
    nest = {}
    inner = nest
    for _ in range(5000):
        inner["a"] = inner = {}

    class Silent:
        def __repr__(self):
            raise SystemExit

        __str__ = __repr__

    reply = _reply({"reward": 0.5, "deep": nest, "big": 10**6000, "own": Silent(), Silent(): 1})
    assert (reply["reward"], reply["error"]) == (0.5, None)
    assert reply["info"] == {
        "deep": "(dict that cannot be shown)",
        "big": "(int that cannot be shown)",
        "own": "(Silent that cannot be shown)",
        "(Silent that cannot be shown)": 1,
    }
