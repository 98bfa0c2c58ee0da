"""What a sweep says when it is over."""

import json

import yaml

from rlpost.launch.sweep.report import finish
from rlpost.launch.sweep.sweep import Sweep
from rlpost.tracking.files.sweep_record import MemberRecord, write_member


def _member(sweep_dir, number, temperature, metrics):
    name = f"x-{number}"
    run = sweep_dir.parent / name
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "time_s": 1.0, **metrics}) + "\n")
    (run / "config.yaml").write_text(yaml.safe_dump({"rollout": {"temperature": temperature}}))
    overrides = (f"rollout.temperature={temperature}",)
    record = MemberRecord(
        name=name, number=number, run_dir=str(run), overrides=overrides, token="t"
    )
    write_member(sweep_dir, record.ended(0))


def _finished(sweep_dir, capsys, **metrics):
    for number, temperature in enumerate((0.7, 1.0)):
        _member(sweep_dir, number, temperature, metrics)
    sweep = Sweep(
        stage="rl", name="sweep", directory=sweep_dir, keys=(), found_by=(), argv=(), token="t"
    )
    finish(sweep)
    return " ".join(capsys.readouterr().out.split())


def test_a_ranking_by_training_reward_has_its_cautions_under_the_table(tmp_path, capsys):
    said = _finished(tmp_path / "sweep", capsys, **{"critic/score/mean": 0.5})
    table, notes = said.index("x-0"), said.index("note: critic/score/mean is the reward of the")
    assert table < notes < said.index("note: the runs differ in rollout.temperature")


def test_a_ranking_by_heldout_data_has_none(tmp_path, capsys):
    said = _finished(tmp_path / "sweep", capsys, **{"val-core/a/acc/mean@1": 0.5})
    assert "x-0" in said and "note:" not in said
