import json

from rlpost.tracking.report import report_data as module
from rlpost.tracking.report.report_data import report_data


def test_headlines_come_from_the_files(tmp_path, runs):
    data = report_data(runs.build_run_dir(tmp_path))
    shown = {each.label: (each.value, each.note) for each in data.headlines}
    assert shown["Held-out accuracy, step 14"] == ("0.639", "from 0.205 at step 0")
    assert shown["Steps"] == ("14", "of 14")
    assert shown["Wall time"] == ("7 min 00 s", "")
    assert data.name == "demo" and data.config == runs.CONFIG
    assert data.steps == list(range(15)) and data.num_samples == len(data.samples) == 226
    assert data.metrics["val-core/arithmetic/acc/mean@2"].count(None) == 12


def test_the_loss_of_a_policy_gradient_is_no_headline_beside_a_reward(tmp_path):
    rows = [{"step": step, "time_s": 1.0, "actor/loss": 0.1 * step} for step in (1, 2)]

    def labels():
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [each.label for each in report_data(tmp_path).headlines]

    assert "Training loss" in labels()
    for row in rows:
        row["critic/score/mean"] = 0.5
    assert "Training reward" in labels() and "Training loss" not in labels()


def test_warnings_are_counted_latest_first(tmp_path, runs):
    data = report_data(runs.build_run_dir(tmp_path))
    assert [(each["message"], each["count"]) for each in data.warnings] == [
        ("timeout of <b>one</b> sample", 2),
        ("actor/grad_norm was nan at step 3", 1),
    ]


def test_an_empty_directory_is_an_empty_page(tmp_path):
    data = report_data(tmp_path)
    assert (data.headlines, data.sections, data.samples, data.warnings) == ([], [], [], [])


def test_damaged_files_cost_a_note(tmp_path, runs):
    run_dir = runs.build_run_dir(tmp_path)
    (run_dir / "metrics.jsonl").write_text("broken\n")
    (run_dir / "rollouts" / "step_000001.jsonl").write_text('{"uid": 1}\nbroken\n')
    (run_dir / "config.yaml").write_text("a: [1\n")
    (run_dir / "trace.json").write_text("[\nbroken,\n{}")
    data = report_data(run_dir)
    notes = [each["message"] for each in data.warnings if each["time"] == "report"]
    assert len(notes) == 4 and "metrics.jsonl:1" in notes[0] and "trace.json" in notes[-1]
    assert data.timeline is None
    assert data.sections == [] and len(data.samples) == 226 - 16


def test_a_metric_that_was_never_finite_has_no_curve(tmp_path):
    rows = [{"step": 1, "time_s": 1.0, "actor/entropy": None, "actor/grad_norm": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = report_data(tmp_path)
    assert [chart["name"] for each in data.sections for chart in each["charts"]] == [
        "gradient-norm"
    ]


def test_long_runs_are_thinned_but_keep_evaluations(tmp_path):
    rows = [{"step": step, "time_s": float(step), "a": 1 / 3} for step in range(5000)]
    for step in range(0, 5000, 1000):
        rows[step]["val-core/x/acc/mean@1"] = 0.5
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = report_data(tmp_path)
    assert 800 <= len(data.steps) <= 1000 and data.num_rows == 5000
    assert data.steps[0] == 0 and data.steps[-1] == 4999
    assert sum(value is not None for value in data.metrics["val-core/x/acc/mean@1"]) == 5
    assert data.metrics["a"][0] == 0.333333


def test_samples_stay_within_the_budget(tmp_path, runs, monkeypatch):
    run_dir = runs.build_run_dir(tmp_path)
    monkeypatch.setattr(module, "_MAX_SAMPLE_BYTES", 20_000)
    data = report_data(run_dir)
    assert len(json.dumps(data.samples)) < 22_000
    assert data.num_samples == 226 and 20 < len(data.samples) < 226
    assert {data.samples[0]["step"], data.samples[-1]["step"]} == {1, 14}


def test_one_long_response_is_cut(tmp_path, runs):
    from rlpost.tracking.files.rollouts import RolloutWriter

    RolloutWriter(tmp_path / "rollouts").log_samples(1, [runs.sample(response="x" * 7000)])
    (only,) = report_data(tmp_path).samples
    assert only["response"].endswith("… (1,000 more characters in rollouts/)")
