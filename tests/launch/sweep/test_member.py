"""A member of a sweep by number is the member that `-m` would run."""

import pytest

from rlpost.errors import UserError
from rlpost.launch.sweep.member import member_command

SWEEP = ["rl", "experiment=quickstart", "trainer.lr=1e-6,1e-5", "seed=1,2", "verifier.kind='a,b'"]


def test_members_are_numbered_like_hydras_and_named_apart():
    members = [member_command(SWEEP, index) for index in range(4)]
    varying = [(m[2], m[3]) for m in members]
    assert varying == [
        ("trainer.lr=1e-06", "seed=1"),
        ("trainer.lr=1e-06", "seed=2"),
        ("trainer.lr=1e-05", "seed=1"),
        ("trainer.lr=1e-05", "seed=2"),
    ]
    names = [m[-2] for m in members]
    assert names[1] == "run.name='quickstart-seed=2,trainer.lr=1e-06'"
    assert len(set(names)) == 4
    assert len({m[-1] for m in members}) == 1  # one group


def test_a_name_of_the_command_line_counts():
    (name,) = [each for each in member_command(["rl", "run.name=mine", "seed=1,2"], 1)
               if each.startswith("run.name='")]  # fmt: skip
    assert name == "run.name='mine-seed=2'"


@pytest.mark.parametrize(
    ("argv", "index", "words"),
    [
        (["rl", "seed=1,2"], 2, "submit with --array=0-1"),
        (["rl", "seed=1"], 0, "several values"),
    ],
)
def test_what_a_person_can_fix(argv, index, words):
    with pytest.raises(UserError, match=words):
        member_command(argv, index)
