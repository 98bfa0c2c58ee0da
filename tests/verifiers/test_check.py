import os
import textwrap

import pytest

from rlpost.errors import InfrastructureError, UserError
from rlpost.verifiers.check import check
from rlpost.verifiers.exact import ExactConfig
from rlpost.verifiers.function import FunctionConfig


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
    assert checked == {"f": FunctionConfig(path=f"{tmp_path}/rewards.py:f"), "exact": ExactConfig()}


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        (FunctionConfig(), r"^verifier\.path must be FILE\.py:function, got ''"),
        (FunctionConfig(path="none.py:f"), r"^verifier\.path: there is no file '.*none\.py'"),
        (ExactConfig(extract="("), r"^verifier\.extract must be a regular expression, got '\('"),
        (ExactConfig(timeout_s=0.0), r"^verifier\.timeout_s must be in \(0, 86400\], got 0"),
        (ExactConfig(weight=float("nan")), r"^verifier\.weight must be in \[-1e6, 1e6\], got nan"),
        (ExactConfig(kind="exakt"), r"^verifier must be one of .* did you mean 'exact'"),
    ],
)
def test_bad_settings_name_their_field(cfg, text):
    with pytest.raises(UserError, match=text):
        check({"v": cfg})


def test_messages_begin_with_the_field_and_name_the_function(path):
    good = path("def f(completions): return [1.0]")
    missing = good.removesuffix("f") + "g"
    with pytest.raises(UserError, match=r"^reward\.path: .*rewards\.py has no function 'g'"):
        check({"f": FunctionConfig(path=good), "g": FunctionConfig(path=missing)}, field="reward")


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
