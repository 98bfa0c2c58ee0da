"""Wrong options fail at compose, with field, value, rule and way out, and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlpost.cli.main import main
from rlpost.config.recipes import fitting

WRONG = {
    "trainer.lrr=1": "did you mean trainer.lr?",
    "trainer.lr=abc": "'abc'",
    "trainer.learning_rate=1e-5": "it is called trainer.lr here",
    "num_generations=8": "it is called rollout.group_size here",
    "loss.clip_low=2": "loss.clip_low must be in (0, 1), got 2.0",
    "rollout.group_size=1": "rollout.group_size must be at least 2, got 1",
    "rollout.temperature=0": "rollout.temperature must be in [0.01, 2], got 0.0",
    "rollout.temperature=nan": "rollout.temperature must be in [0.01, 2], got nan",
    "evaluation.temperature=0.001": "evaluation.temperature must be 0 (greedy) or in [0.01, 2]",
    "generator.threads=0": "generator.threads must be in [1, 1024], got 0",
    "generator.request_timeout_s=0": "generator.request_timeout_s must be in (0, 604800], got 0.0",
    "weights.probe_max_diff=-1": "weights.probe_max_diff must be in (0, 1000], got -1.0",
    "failures.stuck_after_s=600": "failures.stuck_after_s must be above 2100 s",
    "verifier=mth": "did you mean math?",
    "experiment=nope": "experiment must be one of",
    "trainer.zero_stage=4": "trainer.zero_stage must be in [0, 3]",
    "trainer.dtype=fp9": "expected one of",
    "algorithm.kl.form=k1": "expected gradient of 0",
    "data.train=nowhere.jsonl": "nowhere.jsonl",
    "model.path=./nowhere": "does not exist",
    "generator.num=1000": "generator.num must be at most the number of cores",
    "generator.max_model_len=999999": "must be at most the model's context",
    "run.name=a/b": "run.name must be a plain directory name, got 'a/b'",
    "algorithm.epochs=0": "algorithm.epochs must be in [1, 1000], got 0",
    "algorithm=ppo": "algorithm/advantage=gae needs a critic, but critic.enabled=false",
    "reference.num_ranks=2": "reference.num_ranks=2 has no effect: no reference runs beside",
    "critic.enabled=true": "critic.enabled=true has no effect with algorithm/advantage=grpo",
    "loss.dual_clip=0.5": "loss.dual_clip must be in (1, 1e6], got 0.5",
    "algorithm/corrections=[tis]": "set algorithm.anchor=proximal",
    "algorithm/corrections=[tsi]": "did you mean tis?",
    "algorithm/advantage=gdpo": "add a reward model",
    "algorithm.mini_batches=99": "algorithm.mini_batches must be at most rollout.prompts_per_step",
    "verifier.weight=0": "leaves nothing to learn from",
    "verifier=function": "verifier.path must be FILE.py:function, got ''",
    "selection.best=1": "use algorithm=rft",
    "selection.best=0": "selection.best must be in [1, 10000]",
    "+reward_models.rm.path=./nowhere": "does not exist",
    "reward_models.rm.path=./nowhere": "has to be added, for models go by names of your choice: +",
    "experiment=ppo": "reward_models.learned.path",
    "rl.max_staleness=-1": "rl.max_staleness must be in [0, 1000], got -1",
    "rollout.interruption.after=4": "set both, or neither",
    "rl.on_overage=drop": "rl.on_overage=drop has no effect on-policy",
    "rollout.stop=['']": "rollout.stop must hold strings of 1 to 100 characters, got ''",
    "rollout.stop=[a,a]": "rollout.stop must be a list of at most 16 different entries",
    "rollout.stop_token_ids=[7,7]": "rollout.stop_token_ids must be a list of at most 16",
    "rollout.stop_token_ids=[9999999]": "vocabulary, got [9999999]",
    "rl.on_overage=mask": "rl.max_staleness of at least 1",
    "rl.oversample=0.5": "rl.on_overage=wait never drops any",
    "failures.attempts=0": "failures.attempts must be in [1, 1000], got 0",
    "failures.ping_every_s=0": "failures.ping_every_s must be in (0, 3600]",
}
# Wrong only together.
WRONG_TOGETHER = [
    (["algorithm.kl.placement=reward", "algorithm.kl.coefficient=0.1", "algorithm.kl.form=k1"],
     "needs rewards per token"),
    (["algorithm/advantage=pass_at_k", "rollout.group_size=4"],
     "rollout.group_size must be at least 5, got 4"),
    (["algorithm.kl.adaptive.enabled=true", "algorithm.kl.coefficient=0.1"],
     "has no effect with algorithm.kl.placement=loss"),
    (["verifier=function", "verifier.path=r.py:f", "algorithm/advantage=gdpo"],
     "name two functions, verifier=function 'verifier.path=[rewards.py:f,rewards.py:g]'"),
    (["verifier=function", "verifier.path=[r.py:f,r.py:g]", "verifier.weights=[0,0]"],
     "verifier.weights=[0.0, 0.0] leaves nothing to learn from"),
    (["verifier=function", "verifier.path=[r.py:f,r.py:g]", "verifier.weights=[1]"],
     "verifier.weights must have one number for each function of verifier.path, 2 here, got 1"),
    (["verifier=function", "verifier.path=[r.py:f,r.py:f]"], "verifier.path names 'r.py:f' twice"),
    (["verifier=function", "verifier.path=[r.py:f,notes]"],
     "verifier.path must be FILE.py:function, got 'notes'"),
    (["verifier=function", "verifier.path=[r.py:f,r.py:g]"], "verifier.path: there is no file"),
    (["verifier=function", "verifier.path=r.py:f", "verifier.contract=vrl"], "expected one of"),
    (["verifier=function", "verifier.path=r.py:f", "verifier.weights=[a]"], "verifier.weights"),
    (["verifier=function", "verifier.path=r.py:rm", "+reward_models.rm.path=./nowhere"],
     "reward_models.rm has the name of the verifier"),
    (["algorithm.kl.adaptive.enabled=true", "algorithm.kl.adaptive.horizon=99",
      "algorithm.kl.coefficient=0.1", "algorithm.kl.form=k1", "algorithm.kl.placement=reward",
      "algorithm/advantage=reinforce_pp"], "at least the 128 responses of one step"),
    (["algorithm.shaping.overlong_buffer=65", "rollout.max_tokens=64"],
     "algorithm.shaping.overlong_buffer must be at most rollout.max_tokens=64, got 65"),
    (["rollout.interruption.after=64", "rollout.interruption.phrase=Stop", "rollout.max_tokens=64"],
     "rollout.interruption.after must be below rollout.max_tokens=64, got 64"),
]  # fmt: skip


@pytest.fixture
def run_cli(tmp_path, monkeypatch, capsys, tiny_model):
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> tuple[int, str]:
        code = main(["rl", f"model.path={tiny_model}", *overrides])
        return code, " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(("override", "message"), WRONG.items(), ids=list(WRONG))
def test_wrong_option(run_cli, tmp_path, override, message):
    code, text = run_cli(override)
    assert code == 2, text
    assert message in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.parametrize(("overrides", "message"), WRONG_TOGETHER)
def test_wrong_combination(run_cli, tmp_path, overrides, message):
    code, text = run_cli(*overrides)
    assert code == 2 and message in text, text
    assert list(tmp_path.iterdir()) == []


def test_help_is_instant_in_imports(tmp_path):
    """--help must not import the heavy libraries (a timing would be flaky)."""
    code = (
        "import sys; from rlpost.cli.main import build_parser; build_parser().format_help(); "
        "sys.exit(bool({'torch', 'ray', 'vllm', 'deepspeed', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_every_experiment_composes(run_cli, capsys):
    root = Path(__file__).parents[2] / "configs" / "experiment"
    needed = {"ppo": ["reward_models.learned.path=x"]}
    composed = set()
    for stage in ("rl", "sft", "pretrain", "preference", "reward", "distill", "pipeline"):
        own = [] if stage in ("rl", "pipeline") else ["data.train=x.jsonl"]
        own += ["teacher.path=x"] if stage == "distill" else []
        for name in fitting("experiment", stage=stage):
            words = [*own, *needed.get(name, [])]
            assert main([stage, f"experiment={name}", *words, "--cfg", "job"]) == 0
            assert f"name: {name}" in capsys.readouterr().out
            composed.add(name)
    assert composed == {path.stem for path in root.glob("*.yaml")}


def test_rows_without_the_columns_of_a_function_are_refused(run_cli, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    (tmp_path / "r.py").write_text("def f(completions, gold): return [1.0] * len(completions)\n")
    options = ["data.train=train.jsonl", "verifier=function", "verifier.path=r.py:f"]
    code, text = run_cli(*options)
    assert code == 2 and "Traceback" not in text, text
    assert "train.jsonl:1: " in text and "takes the columns ['gold']" in text
    code, text = run_cli(*options, "verifier.needed_columns=[answer]")
    assert code == 2 and "needed_columns" in text, text


BAD_DATA = {
    "malformed line": ('{"prompt": "a", "answer": "1"}\n{"prompt": \n', "train.jsonl:2"),
    "missing column": ('{"question": "a", "answer": "1"}\n', "prompt"),
    "empty dataset": ("", "no usable prompt"),
    "empty prompt": ('{"prompt": "", "answer": "1"}\n', "train.jsonl:1"),
    "no answer to judge by": ('{"prompt": "a", "gold": "1"}\n', "verifier.answer_column"),
    "prompt too long": ('{"prompt": "' + "x" * 900 + '", "answer": "1"}\n', "train.jsonl:1"),
}


@pytest.mark.parametrize(("text", "message"), BAD_DATA.values(), ids=list(BAD_DATA))
def test_bad_data_is_refused_before_anything_starts(run_cli, tmp_path, text, message):
    (tmp_path / "train.jsonl").write_text(text)
    code, output = run_cli("data.train=train.jsonl")
    assert code == 2, output
    assert message in output and "Traceback" not in output
    assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


UNUSABLE_ANSWERS = {
    "numeric": ['""', '" \\n"', '["1", "2"]', '{"a": 1}', "true", "NaN", "-Infinity", "null"],
    "math": ['""'],
    "exact": ['""'],
}


@pytest.mark.parametrize("verifier", UNUSABLE_ANSWERS)
def test_an_answer_nobody_can_judge_by_is_refused_with_its_line(run_cli, tmp_path, verifier):
    for answer in UNUSABLE_ANSWERS[verifier]:
        rows = ['{"prompt": "2 * 3?", "answer": "6"}', f'{{"prompt": "x", "answer": {answer}}}']
        (tmp_path / "train.jsonl").write_text("\n".join(rows))
        code, output = run_cli("data.train=train.jsonl", f"verifier={verifier}")
        assert code == 2, (answer, output)
        assert "train.jsonl:2: " in output and "'answer'" in output, (answer, output)
        assert "Traceback" not in output
        assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


def test_an_answer_that_does_not_score_itself_is_refused_with_its_line(run_cli, tmp_path):
    rows = [{"prompt": "x", "answer": answer} for answer in ("6", "first line\nsecond line")]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, output = run_cli("data.train=train.jsonl", "verifier=exact", "verifier.take=LAST_LINE")
    assert code == 2, output
    text = " ".join(output.split())
    assert "train.jsonl:2: verifier=exact does not score the row's own answer 1" in text
    assert [p.name for p in tmp_path.iterdir()] == ["train.jsonl"]


def test_no_room_for_a_checkpoint_is_refused_before_a_start(run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr("rlpost.checkpoint.store.free_bytes", lambda path: 1000)
    code, output = run_cli()
    assert code == 2, output
    assert "1.0 kB" in output and "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_failing_member_does_not_stop_a_sweep(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(["rl", "-m", f"model.path={tiny_model}", "data.train=a.jsonl,b.jsonl"])
    text = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "'a.jsonl' does not exist" in text
    assert "'b.jsonl' does not exist" in text  # it was still tried


def test_a_row_must_have_a_judge(run_cli, tmp_path):
    """The first verifier may abstain on a row, another then has to judge it."""
    (tmp_path / "r.py").write_text("def f(completions, rubric): return [1.0] * len(completions)\n")
    rows = [{"prompt": "x", "answer": "6"}, {"prompt": "y", "rubric": "be kind"}, {"prompt": "z"}]
    second = ["+verifier@verifiers.kind=function", "verifiers.kind.path=r.py:f"]
    options = ["data.train=train.jsonl", "data.on_bad_row=error", *second, "rewards.rule=first"]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, text = run_cli(*options, "verifier.abstains=true", "verifiers.kind.abstains=true")
    assert code == 2 and "Traceback" not in text, text
    assert "train.jsonl:3: every judge abstains: " in text, text
    assert "r.py:f takes the answer" not in text
    assert "(verifiers.kind=function)" in text and "'answer' (verifier=math)" in text
    code, text = run_cli(*options, "verifier.abstains=true")
    assert code == 2 and "train.jsonl:1: " in text and "takes the columns ['rubric']" in text, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {steps: 1, steps: 2}", "mine.yaml:2: found duplicate key steps"),
        ("trainer: {steps: 1", "mine.yaml:3: expected ',' or '}'"),
        (
            "trainer: 2",
            "mine.yaml: a section, which holds options of its own, is given the",
        ),
    ],
)
def test_a_broken_file_of_the_users_is_named_with_its_line(run_cli, tmp_path, text, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    code, said = run_cli("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert code == 2 and message in said and "Traceback" not in said
