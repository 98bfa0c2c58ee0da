"""The page that compares runs, in a real browser; failed, unborn and unequal ones among them."""

import html
import json
import re
from dataclasses import replace

import pytest
import yaml

from rlpost.cli.compare import main
from rlpost.errors import UserError
from rlpost.tracking.files.sweep_record import MemberRecord, read_members, write_member
from rlpost.tracking.report.comparison import write_comparison
from rlpost.tracking.report.comparison_data import cautions, compare

HELDOUT = "val-core/arithmetic/acc/mean@2"
EVIL = "x-run.tag=<img src=x onerror=\"document.title='owned'\">&'"


def _run(runs, root, name, *, steps, lr=1e-5, planned=14):
    made = runs.build_run_dir(root, steps=steps, name=name)
    config = {"run": {"name": name}, "trainer": {"steps": planned, "lr": lr}, "seed": 1}
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    return made


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, runs):
    """Five members: done, cut short, refused, not begun, and one with a hostile name."""
    root = tmp_path_factory.mktemp("runs")
    sweep = root / "sweep-x-trainer.lr"
    names = ["x-trainer.lr=1", "x-trainer.lr=2", "x-trainer.lr=3", "x-trainer.lr=4", EVIL]
    codes = [0, -9, 2, None, 0]
    for number, (name, code) in enumerate(zip(names, codes, strict=True)):
        record = MemberRecord(
            name=name.replace("/", "_"),
            number=number,
            run_dir=str(root / name),
            overrides=(f"trainer.lr={number + 1}",),
            token="t",
        )
        if code is not None:
            record = record.ended(code, message="" if code == 0 else f"why <b>{code}</b>")
        write_member(sweep, record)
    _run(runs, root, names[0], steps=14, lr=1.0)
    _run(runs, root, names[1], steps=7, lr=2.0)
    _run(runs, root, names[4], steps=21, lr=5.0, planned=21)
    return sweep


@pytest.fixture(scope="module")
def dom(sweep, browser):
    return browser.dump(write_comparison(sweep / "sweep.html", [sweep]).as_uri())


def _rows(dom):
    body = re.search(r"<tbody>(.*?)</tbody>", dom, re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]*>", " ", each)).strip() for each in row] for row in cells]


def test_members_are_ranked_and_none_is_left_out(dom):
    assert 'data-ready="yes"' in dom and re.search(r'id="page-errors"[^>]* hidden', dom)
    rows = _rows(dom)
    assert [row[0] for row in rows] == ["1", "2", "3", "–", "–"]
    assert [row[2] for row in rows] == ["done", "done", "failed", "refused", "not begun"]
    assert [row[3] for row in rows] == ["5.0", "1.0", "2.0", "3", "4"]  # trainer.lr
    assert [row[-1] for row in rows] == ["21 of 21", "14 of 14", "7 of 14", "", ""]
    assert [float(row[-3]) for row in rows[:3]] == [0.856, 0.639, 0.422]
    assert rows[2][1].endswith("why <b>-9</b>")


def test_names_stay_text(dom):
    assert "<title>owned" not in dom and "<img src=x" not in dom
    assert any(EVIL in row[1] for row in _rows(dom))


def test_curves_of_unequal_length_are_drawn_together(dom):
    reward = html.unescape(re.search(r'id="chart-c1"[^>]*aria-label="([^"]*)"', dom)[1])
    assert reward.startswith("Training reward: ")
    assert [int(end) for end in re.findall(r" at (\d+)", reward)] == [21, 14, 7]
    plots = re.findall(r'<div class="plot[^"]*" id="chart-\w+"', dom)
    assert len(plots) == dom.count("<figure")
    assert len(re.findall(r'class="js-line"', dom)) >= 3 * (len(plots) - 1)
    assert 'href="../x-trainer.lr%3D1/report.html"' not in dom  # that run has no report


PROBE = """<pre id="probe"></pre><script>
const order = document.getElementById("order"), axis = document.getElementById("axis");
const names = () => [...document.querySelectorAll("#ranking tbody tr")]
  .map((row) => row.children[0].textContent.trim() + row.children[3].textContent);
const lines = () => document.querySelectorAll("#chart-c1 .js-line").length;
const fire = (form) => form.dispatchEvent(new Event("input"));
const found = [names().join(" "), lines()];
order.elements.metric.value = "actor/entropy"; fire(order);
found.push(names().join(" "));
order.elements.lowest.checked = true; fire(order);
found.push(names().join(" "));
const box = document.querySelector("#ranking tbody input"); box.click();
found.push(lines());
axis.elements.x.value = "time"; fire(axis);
found.push(document.getElementById("chart-c1").layout.xaxis.title.text);
document.getElementById("probe").textContent = JSON.stringify(found);
</script></body>"""


def test_ranking_and_curves_follow_the_controls(sweep, browser, tmp_path):
    page = write_comparison(sweep / "sweep.html", [sweep])
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    shown = html.unescape(re.search(r'id="probe">([^<]*)<', browser.dump(probed.as_uri()))[1])
    by_accuracy, by_entropy = '"15.0 21.0 32.0 –3 –4"', '"12.0 21.0 35.0 –3 –4"'
    lowest = '"15.0 21.0 32.0 –3 –4"'
    assert shown == f'[{by_accuracy},3,{by_entropy},{lowest},2,"minutes"]'


def test_one_run_and_none_measured(tmp_path, runs, browser):
    alone = _run(runs, tmp_path, "alone", steps=3)
    (alone / "report.html").write_text("")
    dom = browser.dump(write_comparison(tmp_path / "one.html", [alone]).as_uri())
    assert 'data-ready="yes"' in dom and "comparison of 1 run<" in dom
    assert [row[2] for row in _rows(dom)] == ["incomplete"]
    assert 'href="alone/report.html"' in dom
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("seed: 1\n")
    dom = browser.dump(write_comparison(tmp_path / "none.html", [empty]).as_uri())
    assert 'data-ready="yes"' in dom and "Nothing has been measured yet" in dom
    assert [row[2] for row in _rows(dom)] == ["not begun"]


def test_only_what_differs_is_a_column(tmp_path, runs):
    made = [_run(runs, tmp_path, name, steps=2, lr=lr) for name, lr in (("a", 1.0), ("b", 2.0))]
    data = compare(made)
    assert data.differing == ["trainer.lr"]  # not run.name, not seed
    assert data.metric == HELDOUT


def _without_heldout(runs, root, name, **settings):
    made = _run(runs, root, name, steps=3)
    rows = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if not k.startswith("val-core/")} for row in rows]
    (made / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    config = yaml.safe_load((made / "config.yaml").read_text()) | settings
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    return made


def test_a_ranking_by_training_reward_says_so(tmp_path, runs, browser):
    made = [
        _without_heldout(runs, tmp_path, name, rollout={"temperature": heat})
        for name, heat in (("a", 0.7), ("b", 1.0))
    ]
    data = compare(made)
    assert data.metric == "critic/score/mean"
    batch, heat = data.cautions
    assert "last training batch, not of held-out data" in batch and "data.heldout=FILE" in batch
    assert "differ in rollout.temperature, which changes what critic/score/mean measures" in heat
    dom = browser.dump(write_comparison(tmp_path / "x.html", made).as_uri())
    assert batch in html.unescape(dom) and heat in html.unescape(dom)


def test_only_what_measures_makes_a_ranking_doubtful(tmp_path, runs):
    assert cautions(HELDOUT, ["trainer.lr", "rollout.temperature", "seed"]) == []
    assert cautions("actor/entropy", ["rollout.temperature"]) == []
    assert cautions(None, ["rollout.temperature"]) == []
    assert len(cautions("critic/score/mean", ["trainer.lr"])) == 1
    assert "evaluation.temperature" in cautions(HELDOUT, ["evaluation.temperature"])[0]
    (said,) = cautions(HELDOUT, ["verifier.weight", "verifiers.short.path", "data.train"])
    assert "verifier.weight, verifiers.short.path, which" in said
    made = [_run(runs, tmp_path, name, steps=14, lr=lr) for name, lr in (("a", 1.0), ("b", 2.0))]
    assert compare(made).cautions == []


def test_runs_of_one_name_stay_apart(tmp_path, runs):
    made = [_run(runs, tmp_path / place, "demo", steps=2) for place in "ab"]
    assert {run.name for run in compare(made).runs} == {"demo (1)", "demo (2)"}


def test_the_lowest_may_be_best_and_unknown_metrics_are_refused(tmp_path, runs):
    made = [_run(runs, tmp_path, name, steps=steps) for name, steps in (("a", 3), ("b", 9))]
    assert [r.name for r in compare(made, metric="actor/entropy").runs] == ["a", "b"]
    lowest = compare(made, metric="actor/entropy", lowest_first=True)
    assert [run.name for run in lowest.runs] == ["b", "a"]
    with pytest.raises(UserError, match=r"no run has 'acc'; they have: actor/entropy"):
        compare(made, metric="acc")


def test_a_damaged_file_costs_a_note(tmp_path, runs):
    made = _run(runs, tmp_path, "a", steps=3)
    (made / "metrics.jsonl").write_text("{}\n")
    data = compare([made])
    assert len(data.runs) == 1 and "metrics.jsonl:1" in data.problems[0]


def test_a_large_sweep_stays_a_page_that_opens(tmp_path, runs):
    made = runs.build_run_dir(tmp_path, steps=900, name="long")
    alone = compare([made]).runs[0]
    many = compare([made] * 60).runs
    assert len(alone.steps) >= 800
    assert sum(len(run.steps) * len(run.metrics) for run in many) < 500_000
    assert many[0].steps[-1] == 900


def test_the_command_writes_where_one_looks(tmp_path, sweep, runs, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(sweep)]) == 0
    assert capsys.readouterr().out.strip() == str(sweep / "sweep.html")
    run = _run(runs, tmp_path, "a", steps=2)
    assert main([str(run), str(sweep), "--metric", "actor/entropy", "--lowest"]) == 0
    assert (tmp_path / "compare.html").exists()
    assert main([str(tmp_path)]) == 2
    assert "neither a run" in capsys.readouterr().err


def test_a_member_ends_in_words(tmp_path):
    record = MemberRecord(name="a", number=0, run_dir="a", overrides=("seed=1",), token="t")
    states = {code: record.ended(code).state.value for code in (0, 1, 2, 130, -9)}
    assert states == {0: "done", 1: "failed", 2: "refused", 130: "interrupted", -9: "failed"}
    write_member(tmp_path, replace(record, number=1))
    write_member(tmp_path, replace(record, name="b"))
    assert [each.name for each in read_members(tmp_path)] == ["b", "a"]


def test_supervised_runs_are_ranked_by_the_lowest_heldout_loss(tmp_path):
    """Without an option, and with a caution where the loss itself differs."""
    for name, losses, loss in (("a", (3.0, 1.5), "nll"), ("b", (3.0, 1.25), "dft")):
        root = tmp_path / name
        root.mkdir()
        rows = [{"step": 0, "time_s": 0.0, "sft/heldout_loss": losses[0]}]
        rows += [{"step": 1, "time_s": 1.0, "sft/loss": 2.0, "sft/heldout_loss": losses[1]}]
        (root / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "config.yaml").write_text(f"loss: {loss}\n")
    runs = [tmp_path / "a", tmp_path / "b"]
    data = compare(runs)
    assert (data.metric, data.lowest_first) == ("sft/heldout_loss", True)
    assert [run.name for run in data.runs] == ["b", "a"]
    assert "differ in loss, which changes what sft/heldout_loss measures" in data.cautions[0]
    titles = [chart["title"] for chart in data.charts]
    assert titles == ["Held-out loss of sft", "Training loss of sft"]
    assert [run.name for run in compare(runs, lowest_first=False).runs] == ["a", "b"]
    trained = compare(runs, metric="sft/loss")
    assert trained.lowest_first and "the loss of the last training batch" in trained.cautions[0]
