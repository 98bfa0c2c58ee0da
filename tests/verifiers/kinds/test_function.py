from pathlib import Path

import pytest

from rlpost.bounds import check_config
from rlpost.errors import DataError, UserError
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds.function import FunctionConfig, function

SAMPLE = Sample(
    prompt="2+3?", text="5!", completion_ids=(7, 8), columns={"answer": "5"}, address="f.jsonl:3"
)
CHAT = Sample(prompt=[{"role": "user", "content": "2+3?"}], text="5", columns={"answer": "5"})


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
        ("def f(answer): ...", "are those of no reward function"),
        ("def f(*args): ...", "are those of no reward function"),
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


CALLABLES = """
    import functools

    def plain(completions, share=1.0, **kwargs):
        return [share * len(c) for c in completions]

    async def coroutine(completions, **kwargs):
        return plain(completions)

    def timed(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)
        return wrapper

    class Reward:
        def __call__(self, completions, **kwargs):
            return plain(completions)
        def method(self, completions, **kwargs):
            return plain(completions)
        @staticmethod
        def static(completions, **kwargs):
            return plain(completions)
        @classmethod
        def of_class(cls, completions, **kwargs):
            return plain(completions)

    class AsyncReward:
        async def __call__(self, completions, **kwargs):
            return plain(completions)

    partial = functools.partial(plain, share=1.0)
    decorated = timed(plain)
    short = lambda completions, **kwargs: plain(completions)
    instance, async_instance = Reward(), AsyncReward()
    method = instance.method
"""


@pytest.mark.parametrize(
    "name",
    [
        "plain", "coroutine", "partial", "decorated", "short", "instance", "async_instance",
        "method", "instance.method", "Reward", "AsyncReward", "Reward.static", "Reward.of_class",
    ],
)  # fmt: skip
def test_everything_that_can_be_called_is_a_function(load, name):
    assert load(CALLABLES, name)(SAMPLE) == 2.0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Reward.method", "is a method of a class and needs an instance"),
        ("NoCall", r"is a class; name an instance that can be called: write my_reward = NoCall"),
        ("NeedsMore", "is a class; name an instance that can be called"),
        ("instance.nothing", r"has no function 'instance.nothing'"),
        ("builtin", "no signature that can be read"),
        ("unwrapped", "are those of no reward function"),
    ],
)
def test_what_cannot_be_called_is_refused_with_words(load, name, text):
    source = (
        CALLABLES
        + """
    class NoCall: pass
    class NeedsMore:
        def __init__(self, size): ...
        def __call__(self, completions): ...
    builtin = max
    def unwrapped(*args, **kwargs): return plain(*args, **kwargs)
    """
    )
    with pytest.raises(UserError, match=text):
        load(source, name)


def test_a_list_becomes_one_reward_for_each_function():
    cfg = FunctionConfig(path=["a.py:f", "a.py:g"], weights=[1.0, 0.2], weight=0.5, timeout_s=3)
    assert cfg.expanded() == {
        "f": FunctionConfig(path="a.py:f", weight=0.5, timeout_s=3),
        "g": FunctionConfig(path="a.py:g", weight=0.1, timeout_s=3),
    }
    assert [c.weight for c in FunctionConfig(path=["a.py:f", "a.py:g"]).expanded().values()] == [
        1,
        1,
    ]


def test_a_single_path_is_a_list_of_one():
    assert FunctionConfig(path="a.py:f", weight=0.5).expanded() == {
        "f": FunctionConfig(path="a.py:f", weight=0.5)
    }


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([1.0], r"weights must have one number for each function of verifier.path, 2 here, got 1"),
        ([1.0, 2.0, 3.0], "2 here, got 3"),
        ([], "2 here, got 0"),
    ],
)
def test_weights_that_do_not_fit(weights, text):
    with pytest.raises(UserError, match=text):
        FunctionConfig(path=["a.py:f", "a.py:g"], weights=weights).expanded()


def test_a_weight_out_of_range_is_named():
    cfg = FunctionConfig(path=["a.py:f", "a.py:g"], weights=[1.0, float("nan")])
    with pytest.raises(
        UserError, match=r"verifier\.weights\[1\] must be in \[-1e6, 1e6\], got nan"
    ):
        check_config(cfg, "verifier")
