import dataclasses
import os
import re
import textwrap

import pytest

from rlpost.errors import InfrastructureError, UserError
from rlpost.verifiers.check import check
from rlpost.verifiers.kinds.exact import ExactConfig
from rlpost.verifiers.kinds.function import Call, FunctionConfig


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def path(source):
        (tmp_path / "rewards.py").write_text(textwrap.dedent(source))
        return "rewards.py:f"

    return path


def test_valid_configs_come_back_with_absolute_paths(path, tmp_path):
    relative = FunctionConfig(path=path("def f(completions, **k): return [1.0]"))
    checked = check({"f": relative, "exact": ExactConfig()})
    absolute = FunctionConfig(path=f"{tmp_path}/rewards.py:f", call=Call.group)
    assert checked == {"f": absolute, "exact": ExactConfig()}


@pytest.mark.parametrize(
    ("parameters", "call"),
    [
        ("prompts, completions, **kw", Call.group),
        ("queries, prompts, labels", Call.group),
        ("solution_strs, ground_truths", Call.group),
        ("data_source, solution_str, ground_truth, extra_info=None", Call.sample),
    ],
)
def test_what_is_called_at_once_follows_from_the_contract(path, parameters, call):
    cfg = FunctionConfig(path=path(f"def f({parameters}): ..."))
    assert check({"f": cfg})["f"].call is call
    one_by_one = dataclasses.replace(cfg, call=Call.sample)
    assert check({"f": one_by_one})["f"].call is Call.sample


@pytest.mark.parametrize(
    ("parameters", "settings", "good", "bad", "text"),
    [
        ("completions, gold, n=3, **kw", {}, {"gold": None}, {"answer": "5"},
         r"rewards\.py:f takes the columns \['gold'\], the row has \['answer'\]"),
        ("completions, log_extra, log_metric", {}, {}, None, ""),
        ("solution_str, ground_truth", {}, {"reward_model": {"ground_truth": "5"}},
         {"reward_model": {"style": "rule"}, "answer": None}, "takes the answer, .*answer_column"),
        ("solution_str, ground_truth", {"answer_column": "gold"}, {"gold": "5"}, {"answer": "5"},
         r"looked for in \['gold'\]"),
        ("solution_str, ground_truth", {"answer_column": ""}, {}, None, ""),
        ("solution_str, ground_truth=None", {}, {}, None, ""),
        ("queries, prompts, labels", {}, {"label": 0}, {"gold": "5"}, "takes the answer"),
        ("queries, prompts, labels=None", {}, {}, None, ""),
    ],
)  # fmt: skip
def test_rows_that_no_response_can_be_judged_by_are_known_then(
    path, parameters, settings, good, bad, text
):
    cfg = FunctionConfig(path=path(f"def f({parameters}): ..."), **settings)
    checked = check({"f": cfg})["f"]
    assert checked.refusal(good) is None
    if bad is not None:
        assert re.search(text, checked.refusal(bad))
        assert cfg.refusal(bad) is None  # nothing is known before


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        (FunctionConfig(), r"^verifier\.path must be FILE\.py:function, got ''"),
        (FunctionConfig(path="none.py:f"), r"^verifier\.path: there is no file '.*none\.py'"),
        (FunctionConfig(path="one.py:f", call=Call.group), r"^verifier\.call=group does not fit"),
        (ExactConfig(extract="("), r"^verifier\.extract must be a regular expression, got '\('"),
        (ExactConfig(timeout_s=0.0), r"^verifier\.timeout_s must be in \(0, 86400\], got 0"),
        (ExactConfig(weight=float("nan")), r"^verifier\.weight must be in \[-1e6, 1e6\], got nan"),
        (ExactConfig(env=["1BAD"]), r"^verifier\.env must list names .*, got '1BAD'; write"),
        (ExactConfig(env=["A KEY"]), r"^verifier\.env must list names"),
        (ExactConfig(env=[""]), r"^verifier\.env must list names"),
        (ExactConfig(env=["RLPOST_NOWHERE"]), r"^verifier\.env names RLPOST_NOWHERE, which is not"),
        (ExactConfig(kind="exakt"), r"^verifier must be one of .* did you mean 'exact'"),
    ],
)
def test_bad_settings_name_their_field(tmp_path, monkeypatch, cfg, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.py").write_text("def f(solution_str, ground_truth): ...")
    with pytest.raises(UserError, match=text):
        check({"v": cfg})


def test_messages_begin_with_the_field_and_name_the_function(path):
    good = path("def f(completions): return [1.0]")
    missing = good.removesuffix("f") + "g"
    with pytest.raises(UserError, match=r"^reward\.path: .*rewards\.py has no function 'g'"):
        check({"f": FunctionConfig(path=good), "g": FunctionConfig(path=missing, place="reward")})


def test_a_key_written_where_its_name_belongs_is_not_repeated():
    with pytest.raises(UserError, match="got 'API_KEY' with a value") as caught:
        check({"v": ExactConfig(env=["API_KEY=sk-123"])})
    assert "sk-123" not in str(caught.value)


def test_a_module_sees_the_variables_that_env_names(path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-123")
    cfg = FunctionConfig(
        path=path("import os\nos.environ['JUDGE_KEY']\ndef f(completions, **k): return [1.0]")
    )
    with pytest.raises(UserError, match="KeyError: 'JUDGE_KEY'"):
        check({"v": cfg})
    cfg.env = ["JUDGE_KEY"]
    assert check({"v": cfg})["v"].env == ["JUDGE_KEY"]


def test_none_configured():
    with pytest.raises(UserError, match="at least one verifier"):
        check({})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import no_such_package", r"ModuleNotFoundError: .*'no_such_package' \(rewards\.py:1\)"),
        ("def f(:", "SyntaxError"),
        ("import sys\n\nsys.exit(3)", r"SystemExit: 3 \(rewards\.py:3\)"),
        ("def g(): ...", r"^verifier\.path: .*rewards\.py has no function 'f'; it has \['g'\]"),
    ],
)
def test_module_that_does_not_load_is_the_users_to_fix(path, source, text):
    with pytest.raises(UserError, match=text):
        check({"v": FunctionConfig(path=path(source))})


def test_module_that_kills_its_process(path):
    source = "import os\nprint('bye', flush=True)\nos._exit(7)"
    with pytest.raises(InfrastructureError, match=r"exit code 7\); it last printed: bye"):
        check({"v": FunctionConfig(path=path(source))})


def test_the_users_module_never_runs_in_this_process(path, tmp_path):
    source = """
        import os, pathlib
        pathlib.Path("pid").write_text(str(os.getpid()))
        def f(completions): return [1.0]
    """
    check({"v": FunctionConfig(path=path(source))})
    assert int((tmp_path / "pid").read_text()) != os.getpid()
