"""The order of a pipeline, its gates, retries and resumption, on stages without models."""

import json
from pathlib import Path

import pytest
import yaml
from pipeline_runs import PlainChildren, pipeline, quality_of, tree_of

from rlpost.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chain(*stages, **gates):
    tree = {
        "name": "chain",
        "base": {"path": "tiny"},
        "gates": {"suites": {"target": {"data": "heldout.jsonl", "verifier": "exact"}}, **gates},
        "stages": [{"run": "sft", "data": {"train": "train.jsonl"}, **each} for each in stages],
    }
    return yaml.safe_dump(tree)


def stage(name, lr, *, start="base", gate=("delta(target) > 0",), **more):
    return {"id": name, "from": start, "set": {"trainer.lr": lr}, "gate": list(gate), **more}


def lineage():
    return json.loads(Path("runs/chain/lineage.json").read_text())


def names(commands):
    return [
        f"{command} {options['run.dir'].rpartition('/')[2]}/{options['run.name']}"
        for command, options in commands
    ]


def quality(name):
    return quality_of(Path(f"runs/chain/stages/{name}/export"))


TWO = chain(stage("one", 0.2), stage("two", 0.1, start="one"))


def test_stages_are_scored_and_judged_and_nothing_is_repeated(capsys):
    outcome, commands = pipeline(TWO)
    assert outcome.exit_code == 0
    assert names(commands) == [
        "evaluate base/target", "sft stages/one", "evaluate one/target",
        "sft stages/two", "evaluate two/target",
    ]  # fmt: skip
    assert commands[3][1]["model.path"].endswith("runs/chain/stages/one/export")
    assert "pass: delta(target) > 0 (0.2 against 0;" in capsys.readouterr().out
    gates = [json.loads(row) for row in Path("runs/chain/gates.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["verdict"]) for row in gates] == [("one", "pass"), ("two", "pass")]
    before = tree_of(Path("runs"))
    assert pipeline(TWO)[1] == []
    assert tree_of(Path("runs")) == before
    with pytest.raises(UserError, match="already holds a pipeline"):
        pipeline(TWO, "resume=never")
    changed = chain(stage("one", 0.25), stage("two", 0.1, start="one"))
    with pytest.raises(UserError, match=r"trainer.lr was 0.2, now 0.25.*Move it away.*\(mv "):
        pipeline(changed)
    Path("runs/chain/stages/two").rename("elsewhere")
    assert names(pipeline(TWO)[1]) == ["sft stages/two"]
    Path("runs/chain/stages/one/export/model.safetensors").write_text("0.1")
    with pytest.raises(UserError, match="is not what one made"):
        pipeline(TWO)


def test_what_is_published_is_a_copy_whose_card_tells_of_the_chain():
    text = yaml.safe_load(TWO) | {"publish": {"from": "two"}}
    text["stages"][1]["gate"] = ["delta(target) > 9"]
    text["stages"][1]["on_fail"] = "rollback"
    outcome, _ = pipeline(yaml.safe_dump(text))
    assert outcome.message.startswith("model: runs/chain/export (one, in place of two)")
    assert quality_of(Path("runs/chain/export")) == quality("one")
    card = Path("runs/chain/export/README.md").read_text()
    known = lineage()
    assert card.startswith("# A model") and "It is in runs/chain/export." in card
    assert known["published"] == {"stage": "two", "stands_for": "one",
                                  "hash": known["stages"]["one"]["result"]["hash"]}  # fmt: skip
    for hash_ in (
        known["pipeline"]["file"], known["base"]["hash"], known["code"]["hash"],
        known["stages"]["two"]["config"], known["stages"]["one"]["recipe"]["inputs"]["from base"],
        known["stages"]["one"]["recipe"]["inputs"]["file train.jsonl"],
    ):  # fmt: skip
        assert hash_ in card
    assert "`two`: `delta(target) > 9`: fail" in card
    own = json.loads(Path("runs/chain/stages/one/export/rlpost.json").read_text())
    assert list(own["pipeline"]["stages"]) == ["one"]  # and nothing of what came after it
    page = Path("runs/chain/report.html").read_text()
    assert "rolled back: one takes its place" in page and "0.700  [0.575, 0.801]" in page
    before = {path: path.stat().st_mtime_ns for path in Path("runs/chain/export").iterdir()}
    pipeline(yaml.safe_dump(text))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_scores_of_a_model_that_was_made_again_are_set_aside():
    pipeline(TWO)
    Path("runs/chain/stages/two").rename("elsewhere")
    changed = chain(stage("one", 0.2), stage("two", 0.05, start="one"))
    outcome, commands = pipeline(changed)
    assert names(commands) == ["sft stages/two", "evaluate two/target"]
    assert outcome.exit_code == 0
    assert Path("runs/chain/scores/two/target.1/evaluation.jsonl").exists()


def test_an_adapter_is_merged_and_what_follows_starts_from_the_whole_model():
    first = stage("one", 0.2)
    first["set"]["adapter"] = "lora"
    text = chain(first, stage("two", 0.1, start="one"))
    _, commands = pipeline(text)
    assert names(commands)[1:4] == ["sft stages/one", "merge stages/one.merged",
                                    "evaluate one/target"]  # fmt: skip
    assert commands[4][1]["model.path"].endswith("stages/one.merged/export")
    Path("runs/chain/stages/one").rename("elsewhere")
    first["set"]["trainer.lr"] = 0.25
    with pytest.raises(UserError, match="from one is another one"):  # not the merge of before
        pipeline(chain(first, stage("two", 0.1, start="one")))
    assert quality("one.merged") == pytest.approx(0.75)


def test_interrupted_in_every_command_it_goes_on_to_the_same_result(tmp_path, monkeypatch):
    retry = {"times": 1, "set": {"trainer.lr": "*200"}}
    text = chain(stage("one", 1e-3, retry=retry))
    _, straight = pipeline(text)
    expected = tree_of(Path("runs"))
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    # The first command of each try goes on with what the try before has left half done.
    tries = [pipeline(text, children=PlainChildren(die_at=1))]
    while tries[-1][0].exit_code == 130:
        tries.append(pipeline(text, children=PlainChildren(die_at=2)))
        assert len(tries) < 20
    assert [outcome.exit_code for outcome, _ in tries] == [130] * len(straight) + [0]
    assert tree_of(Path("runs")) == expected


def test_a_failing_gate_stops_the_chain():
    text = chain(stage("bad", 0.4), stage("two", 0.1, start="bad"))
    outcome, commands = pipeline(text)
    assert outcome.exit_code == 3
    assert outcome.message.startswith("stopped at bad: fail: delta(target) > 0 (-0.4 against 0;")
    assert names(commands)[-1] == "evaluate bad/target"
    again, commands = pipeline(text)
    assert (again.exit_code, commands) == (3, [])


def test_after_a_rollback_the_next_stage_starts_from_the_last_good_one():
    text = chain(
        stage("one", 0.2),
        stage("bad", 0.6, start="one"),
        stage("three", 0.1, start="bad", gate=["score(target) >= score(target, bad)"]),
        on_fail="rollback",
    )
    outcome, commands = pipeline(text)
    assert outcome.exit_code == 0
    last = commands[-2][1]
    assert (last["run.name"], last["model.path"].split("/")[-2]) == ("three", "one")
    assert quality("three") == pytest.approx(0.8)
    assert lineage()["stages"]["bad"]["outcome"] == "rolled back"
    assert lineage()["stages"]["bad"]["stands_for"] == "one"


def test_warn_goes_on_from_the_bad_one_and_a_retry_changes_what_it_says(capsys):
    retry = {"times": 2, "set": {"trainer.lr": "*10"}}
    text = chain(
        stage("one", 0.001, retry=retry, gate=["delta(target) >= 0.1"]),
        stage("bad", 0.4, start="one", on_fail="warn"),
        stage("slow", 0.018, start="bad"),  # one item of sixty more
    )
    outcome, commands = pipeline(text)
    assert outcome.exit_code == 0
    tried = [float(o["trainer.lr"]) for command, o in commands if command == "sft"]
    assert tried == pytest.approx([0.001, 0.01, 0.1, 0.4, 0.018])
    assert lineage()["stages"]["one.3"]["outcome"] == "accepted"
    assert commands[-2][1]["model.path"].split("/")[-2] == "bad"
    assert "warning: slow: too few items to decide" in capsys.readouterr().out


def test_only_and_until():
    with pytest.raises(UserError, match="two is made of one, which is not done"):
        pipeline(TWO, "only=[two]")
    assert names(pipeline(TWO, "until=one")[1])[-1] == "evaluate one/target"
    assert names(pipeline(TWO, "only=[two]")[1]) == ["sft stages/two", "evaluate two/target"]


REFUSED = {
    "option": ({"set": {"trainer.lrr": 1}}, "trainer.lr"),
    "file": ({"data": {"train": "nowhere.jsonl"}}, "does not exist"),
    "suite": ({"gate": ["delta(nothing) > 0"]}, "there is no suite 'nothing'"),
    "cycle": ({"from": "one"}, "wait for each other"),
    "rows": ({"gate": ["rows > 3"]}, "rows is of a data set"),
    "kl": ({"gate": ["kl_to_start < 1"]}, "measures no kl_to_start"),
    "teacher": ({"teacher": "two"}, "rlpost sft has no teacher"),
    "factor": (
        {"retry": {"times": 1, "set": {"data.size": "*2"}}},
        "multiplies a number, and it is None",
    ),
    "starts": ({"from": ["base", "two"]}, "so delta is of none"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(what):
    change, said = REFUSED[what]
    with pytest.raises(UserError, match=said):
        pipeline(chain(stage("one", 0.2) | change, stage("two", 0.1)))
    assert not Path("runs").exists()
