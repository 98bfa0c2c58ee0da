"""The best checkpoint and early stopping, in the real loop with real checkpoints."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import toy_run
from toy_run import LOSS, ToyConfig, ToyGroup, run_toy

from rlpost.checkpoint.store import CheckpointConfig, CheckpointStore
from rlpost.control.early_stopping import EarlyStoppingConfig
from rlpost.control.result_metrics import BestMode
from rlpost.errors import RunFailed, UserError
from rlpost.models.origin import export_record
from rlpost.stages.progress import ended_early
from rlpost.stages.results import ExportConfig, ExportedModel, check_results
from rlpost.stages.resume_point import require_stage
from rlpost.tracking.files.jsonl import read_metrics

LOSSES = [9.0, 4.0, 3.0, 1.0, 2.0, 2.5, 2.0, 2.0, 2.0]  # the best is step 3
BEST = ExportConfig(which=ExportedModel.best)


def best_config(**options):
    return ToyConfig(checkpoint=CheckpointConfig(best_metric=LOSS, **options))


def exported(root):
    return int((root / "export" / "updates").read_text())


def kept(root):
    return sorted(path.name for path in (root / "checkpoints").glob("step_*"))


def best_of(root):
    return (root / "checkpoints" / "best").read_text().strip()


@pytest.mark.parametrize("every", [0, 3, 5])
def test_the_best_checkpoint_stays_and_is_what_was_asked_to_be_exported(tmp_path, every):
    cfg = best_config(every=every)
    run_toy(tmp_path, cfg, LOSSES)
    assert best_of(tmp_path) == "step_000003"
    assert kept(tmp_path) == ["step_000003", "step_000008"]  # keep=1: the last, and the best
    assert exported(tmp_path) == 8

    cfg.export = BEST
    run = run_toy(tmp_path, cfg, LOSSES)  # the finished run again: another export, no training
    assert exported(tmp_path) == 3 and run.step == 8
    record = export_record(tmp_path / "export")
    assert (record["step"], record["run_step"], record["which"]) == (3, 8, "best")
    assert (tmp_path / "checkpoints" / "step_000003" / "model" / "updates").read_text() == "3"


def test_without_a_metric_there_is_no_best(tmp_path):
    run_toy(tmp_path, ToyConfig(), LOSSES)
    assert kept(tmp_path) == ["step_000008"]
    assert not (tmp_path / "checkpoints" / "best").exists()


def test_the_mode_decides_which_end_is_best(tmp_path):
    run_toy(tmp_path, best_config(best_mode=BestMode.max), LOSSES)
    assert best_of(tmp_path) == "step_000001"  # step 0 has no checkpoint


def test_of_equals_the_earliest_is_best_and_what_is_no_number_never(tmp_path):
    losses = [9.0, float("nan"), 2.0, 2.0, float("-inf"), 2.0, 2.0, 2.0, 2.0]
    run_toy(tmp_path, best_config(), losses)
    assert best_of(tmp_path) == "step_000002"


def test_a_run_that_gets_no_better_ends_early_saved_and_exported(tmp_path):
    cfg = ToyConfig(early_stopping=EarlyStoppingConfig(metric=LOSS, patience=3))
    run = run_toy(tmp_path, cfg, LOSSES)
    assert run.step == 6 and exported(tmp_path) == 6 and kept(tmp_path) == ["step_000006"]
    assert run.ending == (
        f"stopped early: {LOSS} was not better than 1 of step 3 in 3 evaluations "
        "(early_stopping.patience=3)"
    )
    assert ended_early(tmp_path / "checkpoints" / "step_000006", cfg)

    cfg.early_stopping.patience = 5  # a larger patience goes on where it stopped
    assert not ended_early(tmp_path / "checkpoints" / "step_000006", cfg)
    run = run_toy(tmp_path, cfg, LOSSES)
    assert run.step == 8 and [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        *range(9)
    ]


@pytest.mark.parametrize(("min_delta", "last"), [(0.0, 8), (0.5, 3)])
def test_an_improvement_is_more_than_the_least_change(tmp_path, min_delta, last):
    stopping = EarlyStoppingConfig(metric=LOSS, patience=2, min_delta=min_delta)
    losses = [9.0, 4.0, 3.75, 3.5, 3.25, 3.0, 2.75, 2.5, 2.25]
    assert run_toy(tmp_path, ToyConfig(early_stopping=stopping), losses).step == last


def test_an_evaluation_without_the_metric_is_no_improvement(tmp_path):
    stopping = EarlyStoppingConfig(metric=LOSS, patience=2)
    losses = [9.0, 4.0, None, None, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert run_toy(tmp_path, ToyConfig(early_stopping=stopping), losses).step == 3


def test_a_metric_that_is_not_measured_is_refused_at_the_first_evaluation(tmp_path):
    cfg = ToyConfig(
        checkpoint=CheckpointConfig(best_metric="toy/heldout_lost/x", best_mode=BestMode.min)
    )
    with pytest.raises(UserError, match=rf"checkpoint\.best_metric: .*measure: {LOSS}$"):
        run_toy(tmp_path / "a", cfg, LOSSES)
    stopping = EarlyStoppingConfig(metric=LOSS)
    with pytest.raises(UserError, match=r"early_stopping\.metric: .* set data\.heldout=FILE"):
        run_toy(tmp_path / "b", ToyConfig(early_stopping=stopping), None)
    assert not (tmp_path / "a" / "checkpoints").exists()  # no step was trained


def test_a_checkpoint_that_could_not_be_saved_is_not_the_best(tmp_path):
    group = ToyGroup()
    group.refuses = {3}
    run_toy(tmp_path, best_config(), LOSSES, group=group)
    assert best_of(tmp_path) == "step_000004"  # 2.0 is the lowest of what was saved
    assert "step_000004" in kept(tmp_path)


def test_a_best_checkpoint_that_is_damaged_is_never_exported_in_silence(tmp_path):
    cfg = best_config()
    run_toy(tmp_path, cfg, LOSSES)
    (tmp_path / "checkpoints" / "step_000003" / "model" / "updates").write_text("7")
    cfg.export = BEST
    with pytest.raises(RunFailed, match=r"export\.which=best: .*hash.*export\.which=last"):
        run_toy(tmp_path, cfg, LOSSES)
    (tmp_path / "checkpoints" / "step_000003" / "model" / "updates").unlink()
    run_toy(tmp_path, cfg, LOSSES)  # it is gone: the last is the only candidate that is left
    assert exported(tmp_path) == 8


def rows(root):
    return [
        {key: value for key, value in row.items() if key in ("step", LOSS, "toy/updates")}
        for row in read_metrics(root / "metrics.jsonl")
    ]


@pytest.mark.parametrize("kill_before", [1, 2, 3, 4, 5, 6])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path, kill_before):
    """Killed before any step it stops at the same step, with the same best and export."""
    toy_run.main(tmp_path / "whole", None)
    command = [sys.executable, toy_run.__file__, str(tmp_path / "cut"), str(kill_before)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    toy_run.main(tmp_path / "cut", None)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    last = read_metrics(tmp_path / "cut" / "metrics.jsonl")[-1]
    assert last["cost/tokens/trained"] >= 6 * toy_run.TOKENS
    lost = last["cost/lost/tokens/trained"]
    assert last["cost/tokens/trained"] - lost == 6 * toy_run.TOKENS
    for root in (tmp_path / "cut", tmp_path / "whole"):
        assert (best_of(root), exported(root)) == ("step_000003", 3)
        state = json.loads((root / "checkpoints" / "step_000006" / "driver.json").read_text())
        assert state["results"]["stopping"]["waited"] == 3
        assert CheckpointStore(root / "checkpoints").latest().name == "step_000006"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"export": BEST}, r"export\.which=best needs checkpoint\.best_metric=NAME"),
        (
            {"early_stopping": EarlyStoppingConfig(metric=LOSS)},
            r"early_stopping\.metric has no effect with evaluation\.every=0",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    cfg = ToyConfig(**options)
    cfg.evaluation.every = 0
    with pytest.raises(UserError, match=message):
        check_results(cfg)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CheckpointConfig(best_metric="a/b"), r"c\.best_mode must be max or min"),
        (CheckpointConfig(best_mode=BestMode.max), r"c\.best_mode has no effect without"),
        (EarlyStoppingConfig(metric="a/b"), r"c\.mode must be max or min"),
        (EarlyStoppingConfig(patience=5), r"c\.\* has no effect without c\.metric"),
    ],
)
def test_options_that_say_too_little_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        config.check("c")


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    run_toy(tmp_path, ToyConfig(), LOSSES)
    checkpoint = tmp_path / "checkpoints" / "step_000008"
    require_stage(checkpoint, "toy")
    with pytest.raises(UserError, match="a checkpoint of rlpost toy, and rlpost sft cannot go on"):
        require_stage(checkpoint, "sft")
