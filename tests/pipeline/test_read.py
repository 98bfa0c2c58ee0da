import pytest
import yaml

from rlpost.errors import UserError
from rlpost.pipeline.graph import chosen, in_order
from rlpost.pipeline.read import read_pipeline
from rlpost.pipeline.spec import OnFail

COMMANDS = {
    "sft": ("model",),
    "rl": ("model",),
    "rft": ("model", "dataset"),
    "distill": ("model",),
    "reward": ("reward",),
    "merge": ("model",),
    "evaluate": ("dataset",),
    "pipeline": (),
}
PLAIN = """
name: plain
base: {path: tiny}
gates:
  suites:
    target: {data: heldout.jsonl, verifier: math, samples: 8, metric: pass@1}
    general: {data: "bundled:general"}
  on_fail: rollback
stages:
  - id: one
    run: sft
    from: base
    data: {train: traces.jsonl, replay: {source: "bundled:general", fraction: 0.1}}
    set: {trainer: {lr: 1e-5}, trainer.steps: 3}
    gate: ["delta(general) >= -0.02", "score(target) > score(target, base)"]
    retry: {times: 2, set: {trainer.lr: "*0.5"}}
  - id: two
    run: rft
    from: one
    output: dataset
    gate: rows >= 5000
  - id: three
    run: distill
    from: {prune: {of: base, layers: 2}}
    teacher: one
    data: {train: ["stage:two", chat.jsonl]}
publish: {from: three, card: true, push_to_hub: false}
"""


def read(tmp_path, text=PLAIN):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return read_pipeline(path, commands=COMMANDS)


def test_a_whole_file(tmp_path):
    spec = read(tmp_path)
    one, two, three = spec.stages
    assert spec.on_fail is OnFail.rollback
    assert one.options == {"trainer.lr": "1e-5", "trainer.steps": 3}
    assert (one.start, one.retry.times) == (("base",), 2)
    assert (two.output, two.gates[0].text) == ("dataset", "rows >= 5000")
    assert (three.start, three.prune.layers, three.teacher) == (("base",), 2, "one")
    assert set(three.references()) == {("from.prune.of", "base"), ("teacher", "one"),
                                       ("data", "two")}  # fmt: skip
    assert spec.suites["target"].sampling_temperature == 1.0


CHANGES = {  # place in the file -> value, what is said
    ("stages", 0, "run"): ("sfd", "did you mean 'sft'"),
    ("stages", 1, "run"): ("pipeline", "no command that makes something 'pipeline'"),
    ("stages", 0, "gates"): ("rows > 1", "did you mean 'gate'"),
    ("stages", 1, "from"): ("onne", "did you mean 'one'"),
    ("stages", 2, "teacher"): ("nobody", "there is no stage 'nobody'"),
    ("stages", 0, "id"): ("base", "is the model that all start from"),
    ("stages", 1, "id"): ("one", "is the id of another stage"),
    ("stages", 2, "id"): ("../../etc", "letters, digits and _"),
    ("stages", 0, "id "): ("from", "there is no key 'id '"),
    ("stages", 1, "output"): ("model2", "rlpost rft makes: model, dataset"),
    ("stages", 0, "gate"): (["delta(targt) > 0"], "did you mean 'target'"),
    ("stages", 1, "gate"): (["score(target, tree) > 0"], "did you mean 'three'"),
    ("stages", 0, "retry"): ({"times": 1, "set": {}}, "must change something"),
    ("stages", 2, "retry"): ({"times": 99, "set": {"a": 1}}, "from 1 to 10"),
    ("stages", 2, "set"): ({"run": {"name": "x"}}, "is set by the stage's id"),
    ("stages", 1, "set"): ({"model.path": "x"}, "is set by from"),
    ("stages", 2, "data"): ({"train": "stage:base"}, "base is no stage"),
    ("stages", 2, "from"): ({"prune": {"of": "base", "layers": 0}}, "from 1 on"),
    ("stages", 2, "on_fail"): ("halt", "there are: stop, rollback, warn"),
    ("gates", "confidence"): (95, r"in \[0.5, 0.9999\]"),
    ("gates", "suites"): ({"t": {"data": "x", "metric": "pass@4"}}, "needs samples=4"),
    ("gates", "test"): ("t_test", "must be paired_bootstrap"),
    ("base",): ("tiny", "must be keys with values"),
    ("stages",): ([], "must be a list of stages"),
    ("common",): ({"rl": {"trainer.lr": 1}}, "no stage that runs 'rl'"),
    ("publish",): ({"from": "one", "push_to_hub": True}, "nothing is uploaded"),
    ("name",): (17, "must be text"),
    ("extra",): (1, "there is no key 'extra'"),
}


@pytest.mark.parametrize(("name", "said"), [("ONE", "another stage"), ("Base", "all start from")])
def test_ids_that_differ_in_case_only_are_refused(tmp_path, name, said):
    tree = yaml.safe_load(PLAIN)
    tree["stages"][2]["id"] = name
    with pytest.raises(UserError, match=said):
        read(tmp_path, yaml.safe_dump(tree))


@pytest.mark.parametrize("place", CHANGES, ids=str)
def test_what_is_wrong_is_said_with_its_place(tmp_path, place):
    value, said = CHANGES[place]
    tree = yaml.safe_load(PLAIN)
    at = tree
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(UserError, match=said) as raised:
        read(tmp_path, yaml.safe_dump(tree))
    assert "file.yaml: " in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "a: [",
        "name: a\nname: b\n",
        "a: &x {b: 1}\nc: *x\n",
        "&a [*a]",
        "\x00",
        "? {a: b}\n: c\n",
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_a_hostile_file_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"file\.yaml"):
        read(tmp_path, text)


def test_order_follows_what_stages_are_made_of(tmp_path):
    turned = yaml.safe_load(PLAIN)
    turned["stages"].reverse()
    spec = read(tmp_path, yaml.safe_dump(turned))
    assert [stage.id for stage in in_order(spec)] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("change", "circle"),
    [
        ({"from": "three"}, "one -> three -> one|three -> one -> three"),
        ({"from": "one"}, "one -> one"),
        ({"gate": ["score(target, two) > 0"]}, "one -> two -> one|two -> one -> two"),
    ],
)
def test_stages_that_wait_for_each_other_are_refused(tmp_path, change, circle):
    tree = yaml.safe_load(PLAIN)
    tree["stages"][0] |= change
    spec = read(tmp_path, yaml.safe_dump(tree))
    with pytest.raises(UserError, match=circle):
        in_order(spec)


def test_a_choice_of_stages(tmp_path):
    stages = in_order(read(tmp_path))
    assert [each.id for each in chosen(stages, only=(), until="two")] == ["one", "two"]
    assert [each.id for each in chosen(stages, only=("three", "one"), until=None)] == [
        "one",
        "three",
    ]
    with pytest.raises(UserError, match="did you mean 'two'"):
        chosen(stages, only=("twoo",), until=None)
    with pytest.raises(UserError, match="leave one out"):
        chosen(stages, only=("one",), until="two")
