import datetime
import json
import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pytest

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Declaration, Sample, VerifierConfig
from rlpost.verifiers.kinds.exact import ExactConfig, Take
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.kinds.math import MathConfig
from rlpost.verifiers.workers.safe_call import MAX_ITEMS, MAX_TEXT, reply_of
from rlpost.verifiers.workers.wire import (
    MAX_REPLY_BYTES,
    BadReply,
    CallFailed,
    _revived,
    decode_config,
    decode_ready,
    decode_replies,
    decode_sample,
    encode_hello,
    encode_request,
    encode_sample,
    new_id,
)

GOOD = {"reward": 1.0, "error": None, "info": {}}


def _sample(**columns):
    return Sample(prompt="q", text="a", columns=columns)


@pytest.mark.parametrize(
    "sample",
    [
        Sample(prompt="q", text="a"),
        Sample(prompt=[{"role": "user", "content": "é \ud800 \U0001f600"}], text="\x00"),
        Sample(prompt="q", text="a", completion_ids=(1, 2), finish_reason="length", address="f:3"),
        _sample(answer=6, nested={"a": [1, None, True, {"b": 0.1}]}, big=2**70, float=1e-300),
        _sample(inf=math.inf, negative=-math.inf),
    ],
)
def test_samples_survive(sample):
    assert decode_sample(json.loads(encode_sample(sample))) == sample


def test_nan_survives():
    assert math.isnan(decode_sample(json.loads(encode_sample(_sample(x=math.nan)))).columns["x"])


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def _circular():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.datetime(2026, 1, 1), "column 'x' holds a datetime, which JSON has no form for"),
        (b"abc", "column 'x' holds a bytes"),
        ({"deep": [{1, 2}]}, "column 'x' holds a set"),
        (np.int64(3), "column 'x' holds a int64"),
        ({1: "a"}, "column 'x' has the key 1, where JSON has only text"),
        (object(), "column 'x' holds a object"),
        (_nested(100_000), "RecursionError"),
        (_circular(), "RecursionError"),
        pytest.param(10**5000, "ValueError: Exceeds the limit", id="digits"),
    ],
)
def test_what_is_no_json_is_refused(value, text):
    with pytest.raises(DataError, match=f"^the row cannot be sent to a worker: {text}"):
        encode_sample(_sample(x=value))


def test_a_request_holds_its_samples():
    samples = [_sample(answer=str(i)) for i in range(3)]
    request = json.loads(encode_request('f"', [encode_sample(s) for s in samples], id="7"))
    assert (request["id"], request["verifier"]) == ("7", 'f"')
    assert [decode_sample(each) for each in request["samples"]] == samples


CONFIGS = {
    "a": ExactConfig(take=Take.LAST_LINE, extract="x(.*)", timeout_s=0.5),
    "b": FunctionConfig(path="/r.py:f", weight=-2.0),
    "c": MathConfig(answer_column="gold"),
}


def test_configs_survive():
    hello = json.loads(encode_hello(CONFIGS, id="1"))
    assert {n: decode_config(plain) for n, plain in hello["configs"].items()} == CONFIGS


def test_configs_of_a_wrong_kind_are_refused():
    with pytest.raises(UserError, match="did you mean 'math'"):
        encode_hello({"m": VerifierConfig(kind="maths")}, id="1")
    with pytest.raises(UserError, match="kind=math takes a MathConfig, got ExactConfig"):
        encode_hello({"m": ExactConfig(kind="math")}, id="1")


class _Color(Enum):
    RED = "red"


@dataclass
class _Fields:
    many: list[_Color] = field(default_factory=list)


@pytest.mark.parametrize(
    ("hint", "plain", "value"),
    [
        (_Color, "red", _Color.RED),
        (_Color | None, "red", _Color.RED),
        (_Color | None, None, None),
        (list[_Color], ["red"], [_Color.RED]),
        (dict[str, _Color], {"red": "red"}, {"red": _Color.RED}),
        (str, "red", "red"),
        (str | list[str], ["red"], ["red"]),
    ],
)
def test_enums_come_back_where_the_type_asks_for_them(hint, plain, value):
    assert _revived(hint, plain) == value


def _frame(*replies, id="7", **others):
    return json.dumps({"id": id, "replies": list(replies), **others}).encode()


def test_good_replies_are_accepted():
    failed = {"reward": None, "error": "ValueError: no", "info": {"a": 1, "b": None, "c": "x"}}
    assert decode_replies(_frame(GOOD, failed), id="7", num_samples=2) == [GOOD, failed]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"id": "7", "replies": [' + b"9" * 10_000 + b"]}",
        _frame(GOOD, id="8"),
        _frame(GOOD, id=7),
        _frame(GOOD, id=None),
        _frame(GOOD, more=1),
        _frame(),
        _frame(GOOD, GOOD),
        _frame(None),
        _frame([GOOD]),
        _frame({"reward": 1.0, "error": None}),
        _frame(GOOD | {"verifier": "other"}),
        _frame(GOOD | {"reward": math.nan}),
        _frame(GOOD | {"reward": math.inf}),
        _frame(GOOD | {"reward": True}),
        _frame(GOOD | {"reward": "99"}),
        _frame(GOOD | {"reward": 10**400}),
        _frame(GOOD | {"reward": None}),
        _frame(GOOD | {"error": "both"}),
        _frame(GOOD | {"reward": None, "error": ""}),
        _frame(GOOD | {"reward": None, "error": ["x"]}),
        _frame(GOOD | {"reward": None, "error": "\ud800"}),
        _frame(GOOD | {"reward": None, "error": "x" * (2 * MAX_TEXT + 1)}),
        _frame(GOOD | {"info": None}),
        _frame(GOOD | {"info": {"a": []}}),
        _frame(GOOD | {"info": {"a": "\ud800"}}),
        _frame(GOOD | {"info": {"\ud800": 1}}),
        _frame(GOOD | {"info": {"a": math.nan}}),
        _frame(GOOD | {"info": {"a": "x" * (MAX_TEXT + 1)}}),
        _frame(GOOD | {"info": {"x" * (MAX_TEXT + 1): 1}}),
        _frame(GOOD | {"info": {str(i): 1 for i in range(MAX_ITEMS + 1)}}),
        json.dumps({"id": "7", "refusals": {}}).encode(),
    ],
)
def test_anything_else_is_a_bad_reply(frame):
    with pytest.raises(BadReply):
        decode_replies(frame, id="7", num_samples=1)


DECLARED = {"groups": True, "columns": ["gold"], "answers": []}


def test_the_first_reply_names_configured_verifiers_only():
    def ready(refusals, declared):
        message = {"id": "7", "refusals": refusals, "declared": declared}
        return decode_ready(json.dumps(message).encode(), id="7", names=["a", "b"])

    declaration = Declaration(groups=True, columns=("gold",))
    assert ready({"a": "why"}, {"b": DECLARED}) == ({"a": "why"}, {"b": declaration})
    for bad in ({"c": "why"}, {"a": 1}, ["a"], None):
        with pytest.raises(BadReply):
            ready(bad, {})
    for bad in (
        {"c": DECLARED},
        ["a"],
        None,
        {"a": None},
        {"a": {"groups": True}},
        {"a": DECLARED | {"groups": 1}},
        {"a": DECLARED | {"columns": "gold"}},
        {"a": DECLARED | {"answers": [1]}},
        {"a": DECLARED | {"more": 1}},
    ):
        with pytest.raises(BadReply):
            ready({}, bad)
    with pytest.raises(BadReply):
        decode_ready(b'{"id": "7", "refusals": {}}', id="7", names=["a"])


def test_a_call_for_several_samples_may_fail_as_a_whole():
    frame = json.dumps({"id": "7", "failure": "ValueError: no"}).encode()
    with pytest.raises(CallFailed, match="ValueError: no"):
        decode_replies(frame, id="7", num_samples=2)
    with pytest.raises(BadReply):
        decode_replies(frame, id="7", num_samples=1)
    for bad in ("", None, 1, "x" * (2 * MAX_TEXT + 1), "\ud800"):
        with pytest.raises(BadReply):
            decode_replies(json.dumps({"id": "7", "failure": bad}).encode(), id="7", num_samples=2)


@pytest.mark.parametrize("char", ["x", '"', "\x00", "\ud800", "\U0001f600"])
def test_every_reply_of_the_boundary_is_accepted_and_fits(char):
    def raises(sample):
        raise ValueError(char * 10**4)

    large = {str(i) + char * 10**4: char * 10**4 for i in range(MAX_ITEMS)} | {"reward": 0.5}
    for judge in (lambda sample: large, raises):
        frame = _frame(reply_of(judge, _sample()))
        assert len(frame) < MAX_REPLY_BYTES
        decode_replies(frame, id="7", num_samples=1)


def test_ids_differ():
    assert len({new_id() for _ in range(1000)}) == 1000
