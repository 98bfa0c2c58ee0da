"""What a command line with `-m` means."""

import pytest

from rlpost.config.command_line import read_command_line
from rlpost.config.store import register_configs
from rlpost.errors import UserError
from rlpost.launch.sweep.sweep import plan_sweep


@pytest.fixture(autouse=True)
def configs():
    register_configs("rl")


def planned(argv):
    return plan_sweep(read_command_line(argv, stage="rl"), stage="rl")


def test_the_sweep_is_named_after_the_run_and_what_varies():
    argv = ["experiment=quickstart", "-m", "trainer.lr=1e-6,1e-5", "seed=1,2", "run.dir=out"]
    sweep = planned(argv)
    assert sweep.keys == ("trainer.lr", "seed")
    assert str(sweep.directory) == "out/sweep-quickstart-seed,trainer.lr"
    assert "hydra/launcher=processes" in sweep.argv and sweep.argv[0] == "-m"
    assert sweep.metric is None and not sweep.lowest_first


def test_a_chosen_launcher_stays():
    sweep = planned(["-m", "hydra/launcher=submitit_local", "seed=1,2"])
    assert "hydra/launcher=processes" not in sweep.argv
    assert sweep.name == "sweep-rl-seed"


def test_a_recipe_may_say_what_varies_and_what_ranks():
    ranked = ["hydra.sweeper.metric=actor/kl_loss", "hydra.sweeper.goal=minimize"]
    sweep = planned(["-m", "sweep=optuna", *ranked])
    assert sweep.keys == ("trainer.lr",)
    assert (sweep.metric, sweep.lowest_first) == ("actor/kl_loss", True)
    best = ["checkpoint.best_metric=actor/ppo_kl", "checkpoint.best_mode=min"]
    sweep = planned(["-m", "seed=1,2", *best])
    assert (sweep.metric, sweep.lowest_first) == ("actor/ppo_kl", True)
    sweep = planned(["-m", "seed=1,2", best[0]])
    assert (sweep.metric, sweep.lowest_first) == ("actor/ppo_kl", None)  # by its name


def test_yaml_beside_the_package_is_given_to_the_members(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nrun:\n  name: mine\nseed: 7\n"
    )
    argv = ["-m", "--config-dir", str(tmp_path), "experiment=mine", "trainer.lr=1e-6,1e-5"]
    sweep = planned(argv)
    assert sweep.name == "sweep-mine-trainer.lr"
    assert sweep.found_by == (f"--config-dir={tmp_path}",)


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "trainer.lr=-1,-2"],
        ["-m", "seed=1,2", "trainer.steps=-1"],
        ["-m", "loss=glob(c*)", "trainer.steps=-1"],
        ["-m", "trainer.steps=range(-3,-1)"],
        ["-m", "seed=1,2", "algorithm=ppo"],
    ],
)
def test_a_sweep_of_which_no_member_could_run_is_refused(argv):
    with pytest.raises(UserError, match=r"must be in|needs a critic"):
        planned(argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-m", "seed=1,2", "trainer.lr=1e-6,-1"],
         r"2 of the 4 members .* none was started; seed=1, trainer\.lr=-1: trainer\.lr must be in"),
        (["-m", "+hydra.sweeper.params.seed='1,-1'"], r"1 of the 2 .*; seed=-1: seed must be in"),
        (["-m", "verifier=function,math", "verifier.path=a.py:f"], r"=math: verifier\.path"),
        (["-m", "algorithm=ppo", "critic.enabled=true,false"], r"critic\.enabled=False: .*critic"),
        (["-m", "trainer.lr=1e-5,0.00001"], r"member trainer\.lr=1e-05 twice"),
        (["-m", "seed=1,2", "hydra.sweeper.max_batch_size=0"], r"max_batch_size must be .* got 0"),
        (["-m", "trainer.lr=interval(1e-6,1e-5)"], r"only a search .* sweep=optuna, or list"),
    ],
)  # fmt: skip
def test_one_wrong_member_is_named_before_any_other_runs(argv, said):
    with pytest.raises(UserError, match=said):
        planned(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "seed=1,2", "hydra.launcher.n_jobs=2"],  # an option of the launcher left open
        ["-m", "loss=glob(c*)", "algorithm=grpo,rloo"],
        ["-m", "sweep=optuna", "trainer.lr=interval(0,1e-4)"],  # lr=0 is no member
        ["-m", "sweep=optuna", "trainer.lr=-1,1e-6"],  # a search learns from failures
    ],
)
def test_a_sweep_whose_members_can_run_goes_on(argv):
    assert planned(argv).argv


def test_a_search_of_which_nothing_can_run_is_refused():
    with pytest.raises(UserError, match=r"trainer\.steps must be in"):
        planned(["-m", "sweep=optuna", "trainer.steps=-1"])


def test_a_sweep_prints_no_configuration():
    with pytest.raises(UserError, match="leave -m out"):
        planned(["-m", "seed=1,2", "--cfg", "job"])
