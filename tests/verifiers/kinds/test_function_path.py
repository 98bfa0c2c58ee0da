import pytest

from rlpost.errors import UserError
from rlpost.verifiers.kinds.function_path import FunctionPath, names_of, parse_all


def _names(*texts):
    return names_of(parse_all(list(texts)))


def test_names_are_the_functions_own_where_they_differ():
    assert _names("a.py:correct", "b.py:short", "a.py:scorer.fast") == [
        "correct", "short", "scorer_fast",
    ]  # fmt: skip


def test_equal_names_are_told_apart_by_their_files():
    assert _names("a.py:f", "b.py:f", "c.py:g") == ["a_f", "b_f", "g"]
    assert _names("a/r.py:f", "b/r.py:f") == ["r_f", "r_f_2"]
    assert _names("a.py:f", "b.py:f", "c.py:a_f") == ["a_f_2", "b_f", "a_f"]
    assert _names("my rewards.v2.py:f", "b.py:f") == ["my_rewards_v2_f", "b_f"]


@pytest.mark.parametrize(
    "path",
    ["", "a.py", "a.py:", ":f", "a.py:f()", "a.py:f.", "a.py:.f", 3, None, {"a": 1}, ["a.py:f"]],
)
def test_malformed(path):
    with pytest.raises(UserError, match=r"path must be FILE\.py:function, got"):
        FunctionPath.parse(path)
    with pytest.raises(UserError, match=r"path must be FILE\.py:function, got"):
        parse_all(["b.py:g", path])


def test_the_same_function_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for again in ("a.py:f", "./a.py:f", f"{tmp_path}/a.py:f"):
        with pytest.raises(UserError, match="twice; name it once, with a larger weight"):
            parse_all(["a.py:f", again])


def test_an_empty_list_is_refused():
    with pytest.raises(UserError, match="path names no function"):
        parse_all([])


def test_absolute_keeps_the_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(FunctionPath.parse("a.py:o.f").absolute()) == f"{tmp_path}/a.py:o.f"
