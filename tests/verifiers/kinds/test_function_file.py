import importlib.util
import sys

import pytest

from rlpost.errors import UserError
from rlpost.verifiers.base import Sample

SAMPLE = Sample(prompt="q", text="5", columns={"answer": "5"})
TRL = "def f(completions, **kw): return [1.0]"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from verl.utils.reward_score import default_compute_score", "verl"),
        ("import verl.utils.reward_score.gsm8k as gsm8k", "verl"),
        ("from openrlhf.utils import grade_answer", "openrlhf"),
        ("from trl.rewards import accuracy_reward", "trl"),
        ("from verl.workers.reward_manager import NaiveRewardManager", "verl"),
    ],
)
def test_an_import_that_computes_is_refused_by_name_and_line(load, line, words):
    if importlib.util.find_spec(words) is not None:
        pytest.fail(f"this test needs an environment without {words}")
    with pytest.raises(UserError) as refused:
        load(f"import math\n{line}\n{TRL}")
    text = str(refused.value)
    assert "(rewards.py:2)" in text
    assert f"{words} is not installed in this environment" in text
    assert "remove the import" in text and f"install {words}" in text
    assert words not in sys.modules


@pytest.mark.parametrize(
    "lines",
    [
        "from verl.utils.rollout_trace import rollout_trace_op as mark",
        "from verl.workers.reward_manager import register\nmark = register('mine')",
        "import logging\nfrom openrlhf.utils.logging_utils import init_logger\n"
        "init_logger(__name__).info('x')\nmark = lambda f: f",
        "from trl.trainer.grpo_trainer import RewardFunc\nx: RewardFunc\nmark = lambda f: f",
    ],
)
def test_names_that_do_nothing_are_stood_in_for(load, lines):
    assert load(f"{lines}\n@mark\n{TRL}")(SAMPLE) == 1.0
    assert not {"verl", "openrlhf", "trl"} & sys.modules.keys()


def test_code_that_asks_whether_a_framework_is_there_gets_the_true_answer(load):
    judge = load("""
        try:
            import verl
            HAS = 1.0
        except ImportError:
            HAS = 0.0
        def f(completions, **kw): return [HAS]
    """)
    assert judge(SAMPLE) == 0.0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_thing", "install the package that has it"),
        ("from math import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("from .helper import x", "write import NAME"),
        ("def f(:", r"SyntaxError: invalid syntax \(rewards\.py:1\)"),
    ],
)
def test_other_imports_and_bad_python(load, source, words):
    with pytest.raises(UserError, match=words):
        load(source)


def test_the_line_is_that_of_the_sibling_which_imports(load, tmp_path):
    (tmp_path / "sibling_of_rewards.py").write_text("\n\nfrom verl import DataProto\n")
    with pytest.raises(UserError, match=r"\(sibling_of_rewards\.py:3\); verl is not installed"):
        load(f"import sibling_of_rewards\n{TRL}")


def test_a_file_is_imported_once_for_all_its_functions(tmp_path):
    from rlpost.verifiers.kinds.function import FunctionConfig, function

    file = tmp_path / "rewards.py"
    file.write_text(
        "from pathlib import Path\n"
        "with open(Path(__file__).with_name('log'), 'a') as log: log.write('x')\n"
        "def f(completions): return [1.0]\ndef g(completions): return [2.0]\n"
    )
    judges = [function(FunctionConfig(path=f"{file}:{name}")) for name in "fg"]
    assert [judge(SAMPLE) for judge in judges] == [1.0, 2.0]
    assert (tmp_path / "log").read_text() == "x"
