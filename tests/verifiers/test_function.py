import textwrap
from pathlib import Path

import pytest

from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.function import FunctionConfig, function

SAMPLE = Sample(
    prompt="2+3?", text="5!", completion_ids=(7, 8), columns={"answer": "5"}, address="f.jsonl:3"
)
CHAT = Sample(prompt=[{"role": "user", "content": "2+3?"}], text="5", columns={"answer": "5"})


@pytest.fixture
def load(tmp_path):
    def load(source, name="f"):
        file = tmp_path / "rewards.py"
        file.write_text(textwrap.dedent(source))
        return function(FunctionConfig(path=f"{file}:{name}"))

    return load


def test_gets_lists_of_one_by_keyword(load):
    judge = load("""
        def f(prompts, completions, completion_ids, **columns):
            assert prompts == ["2+3?"] and completions == ["5!"], (prompts, completions)
            assert completion_ids == [[7, 8]] and columns == {"answer": ["5"]}
            return [0.25]
    """)
    assert judge(SAMPLE) == 0.25


def test_messages_as_trl_passes_them(load):
    judge = load("""
        def f(completions, prompts, **kwargs):
            assert prompts == [[{"role": "user", "content": "2+3?"}]]
            return [float(c[0]["content"] == "5" and c[0]["role"] == "assistant")
                    for c in completions]
    """)
    assert judge(CHAT) == 1.0


@pytest.mark.parametrize(
    "signature",
    ["completions, answer", "completions, *, answer=None", "completions, answer, **kwargs"],
)
def test_gets_only_the_names_it_accepts(load, signature):
    judge = load(f"""
        def f({signature}):
            return [float(completions[0].rstrip("!") == answer[0])]
    """)
    assert judge(SAMPLE) == 1.0


def test_async_functions_share_one_loop(load):
    judge = load("""
        import asyncio
        loops = set()
        async def f(completions, **kwargs):
            await asyncio.sleep(0)
            loops.add(asyncio.get_running_loop())
            return [float(len(loops))]
    """)
    assert [judge(SAMPLE), judge(SAMPLE)] == [1.0, 1.0]


def test_none_abstains(load):
    assert load("def f(completions, **kwargs): return [None]")(SAMPLE) is None


@pytest.mark.parametrize("returned", ["(0.5,)", "numpy.array([0.5])", "[numpy.float32(0.5)]"])
def test_other_sequences(load, returned):
    judge = load(f"""
        import numpy
        def f(completions, **kwargs): return {returned}
    """)
    assert judge(SAMPLE) == 0.5


@pytest.mark.parametrize(
    ("returned", "error", "text"),
    [
        ("1.0", TypeError, "must return a list of rewards, got float"),
        ("None", TypeError, "must return a list of rewards, got NoneType"),
        ("[]", ValueError, "got 0 for 1"),
        ("[1.0, 2.0]", ValueError, "got 2 for 1"),
    ],
)
def test_wrong_return_is_an_error(load, returned, error, text):
    with pytest.raises(error, match=text):
        load(f"def f(completions, **kwargs): return {returned}")(SAMPLE)


def test_missing_column_names_row_and_column(load):
    judge = load("def f(completions, gold): return [1.0]")
    with pytest.raises(DataError, match=r"f\.jsonl:3: .*needs the columns \['gold'\]"):
        judge(SAMPLE)


def test_siblings_and_callable_objects(load, tmp_path):
    (tmp_path / "rewards_helper_of_test.py").write_text("VALUE = 0.75\n")
    judge = load("""
        from rewards_helper_of_test import VALUE
        class Reward:
            def __call__(self, completions, **kwargs): return [VALUE]
        f = Reward()
    """)
    assert judge(SAMPLE) == 0.75


@pytest.mark.parametrize("path", ["", "rewards.py", "rewards.py:", ":f", "rewards.py:f()"])
def test_malformed_path(path):
    with pytest.raises(UserError, match=r"path must be FILE\.py:function"):
        function(FunctionConfig(path=path))


def test_missing_file():
    with pytest.raises(UserError, match=r"there is no file 'nowhere\.py'"):
        function(FunctionConfig(path="nowhere.py:f"))


def test_file_of_another_type(tmp_path):
    (tmp_path / "rewards.txt").write_text("")
    with pytest.raises(UserError, match=r"must end in \.py"):
        function(FunctionConfig(path=f"{tmp_path}/rewards.txt:f"))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def g(completions, **k): ...", r"has no function 'f'; it has \['g'\]"),
        ("f = 3", "'f' in .* is not callable but int"),
        ("def f(completions, /, **k): ...", r"takes \['completions'\] by position only"),
        ("def f(answer): ...", "accepts none of"),
        ("def f(*args): ...", "accepts none of"),
    ],
)
def test_unusable_function(load, source, text):
    with pytest.raises(UserError, match=text):
        load(source)


def test_resolved_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = FunctionConfig(path="rewards.py:f", weight=0.5)
    assert cfg.resolved() == FunctionConfig(path=f"{Path.cwd()}/rewards.py:f", weight=0.5)
    assert cfg.path == "rewards.py:f"
