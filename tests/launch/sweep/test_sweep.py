"""What a command line with `-m` means."""

import pytest

from rlpost.config.store import register_configs
from rlpost.launch.sweep.sweep import plan_sweep


@pytest.fixture(autouse=True)
def configs():
    register_configs()


def test_without_m_there_is_no_sweep():
    assert plan_sweep(["seed=1"], stage="rl") is None


def test_the_sweep_is_named_after_the_run_and_what_varies():
    argv = ["experiment=quickstart", "-m", "trainer.lr=1e-6,1e-5", "seed=1,2", "run.dir=out"]
    sweep = plan_sweep(argv, stage="rl")
    assert sweep.keys == ("trainer.lr", "seed")
    assert str(sweep.directory) == "out/sweep-quickstart-seed,trainer.lr"
    assert "hydra/launcher=processes" in sweep.argv and sweep.argv[0] == "-m"
    assert sweep.metric is None and not sweep.lowest_first


def test_a_chosen_launcher_stays():
    sweep = plan_sweep(["-m", "hydra/launcher=submitit_local", "seed=1,2"], stage="rl")
    assert "hydra/launcher=processes" not in sweep.argv
    assert sweep.name == "sweep-rl-seed"


def test_a_recipe_may_say_what_varies_and_what_ranks():
    ranked = ["hydra.sweeper.metric=actor/kl_loss", "hydra.sweeper.goal=minimize"]
    sweep = plan_sweep(["-m", "sweep=optuna", *ranked], stage="rl")
    assert sweep.keys == ("trainer.lr",)
    assert (sweep.metric, sweep.lowest_first) == ("actor/kl_loss", True)


def test_options_that_exist_only_with_a_swept_choice_are_understood():
    argv = ["-m", "verifier=function,math", "verifier.path=a.py:f"]  # math has no path
    assert plan_sweep(argv, stage="rl").keys == ("verifier",)


def test_yaml_beside_the_package_is_given_to_the_members(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nrun:\n  name: mine\nseed: 7\n"
    )
    argv = ["-m", "--config-dir", str(tmp_path), "experiment=mine", "trainer.lr=1e-6,1e-5"]
    sweep = plan_sweep(argv, stage="rl")
    assert sweep.name == "sweep-mine-trainer.lr"
    assert sweep.found_by == (f"--config-dir={tmp_path}",)
