"""What the loop does when somebody asks it to stop; the rest is in tests/simulation/."""

from toy_run import ToyConfig, run_toy

LOSSES = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_a_run_that_is_stopped_saves_its_steps_and_without_one_nothing(tmp_path):
    """The weights before the first step are on disk already, and may be large."""
    run = run_toy(tmp_path, ToyConfig(), LOSSES, stop_after=0)
    assert run.step == 0 and list(run.directory.checkpoints.glob("step_*")) == []
    run = run_toy(tmp_path, ToyConfig(), LOSSES, stop_after=2)
    assert run.step == 2 and run.store.latest().name == "step_000002"
    assert run_toy(tmp_path, ToyConfig(), LOSSES).step == 8
