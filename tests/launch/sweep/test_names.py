from hydra.core.override_parser.overrides_parser import OverridesParser

from rlpost.config.quoting import quoted
from rlpost.launch.sweep.names import member_name, sweep_name, varying


def test_a_name_says_what_varies_and_nothing_else():
    overrides = ["experiment=quickstart", "seed=1", "trainer.lr=1e-05"]
    keys = ["seed", "trainer.lr"]
    assert member_name("x", overrides, keys=keys) == "x-seed=1,trainer.lr=1e-05"
    assert sweep_name("x", keys=keys) == "sweep-x-seed,trainer.lr"
    assert varying(overrides, keys=keys) == overrides[1:]


def test_the_order_of_the_command_line_does_not_matter():
    overrides, keys = ["trainer.lr=1", "seed=2"], ["trainer.lr", "seed"]
    forth, back = (member_name("x", each, keys=keys) for each in (overrides, overrides[::-1]))
    assert forth == back == "x-seed=2,trainer.lr=1"
    assert sweep_name("x", keys=keys) == sweep_name("x", keys=keys[::-1])


def test_a_swept_name_is_the_name():
    assert member_name("b", ["run.name=b"], keys=["run.name"]) == "b"


def test_members_that_differ_only_in_what_a_directory_cannot_show_differ():
    first, second = (
        member_name("x", [f"data.train={path}"], keys=["data.train"]) for path in ("a/b", "a_b")
    )
    assert first != second and "/" not in first


def test_long_names_are_cut_and_stay_unique():
    keys = ["model.path"]
    long = "m" * 300
    names = {member_name("x", [f"model.path={long}{n}"], keys=keys) for n in range(9)}
    assert len(names) == 9 and max(map(len, names)) <= 102


def test_a_quoted_value_is_read_back_by_hydra():
    for value in ("x-seed=1,trainer.lr=1e-05", "it's {so}", "back\\", "a\\'b", ""):
        (parsed,) = OverridesParser.create().parse_overrides([f"run.name={quoted(value)}"])
        assert parsed.value() == value
