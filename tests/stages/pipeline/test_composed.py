"""Options that differ in the names of stages alone are composed once."""

from pathlib import Path

import pytest

from rlpost.errors import UserError
from rlpost.stages.pipeline.composed import Compositions
from rlpost.stages.pipeline.places import Places

PLACES = Places(root=Path("/runs/chain"))


def words(name: str, *, model: str, teacher: str, lr: str = "0.1") -> list[str]:
    return [
        f"run.dir={PLACES.stages}",
        f"run.name={name}",
        f"model.path={PLACES.run(model).export}",
        f"teacher.path={PLACES.run(teacher).export}",
        "data.train=rows.jsonl",
        f"trainer.lr={lr}",
    ]


def test_only_names_are_taken_for_the_same():
    composed = Compositions(PLACES)
    first = composed("distill", words("c", model="a", teacher="b"), at="file: c")
    assert first["model"]["path"].endswith("stages/a/export")
    again = composed("distill", words("d", model="b", teacher="c"), at="file: d")
    assert again is first
    other = composed("distill", words("d", model="b", teacher="c", lr="0.2"), at="file: d")
    assert (first["trainer"]["lr"], other["trainer"]["lr"]) == (0.1, 0.2)
    own = composed("distill", words("d", model="b", teacher="b"), at="file: d")
    assert own is not first  # it is its own teacher, which a command may refuse


def test_what_is_refused_is_refused_at_its_own_place():
    composed = Compositions(PLACES)
    for name in ("one", "two"):
        with pytest.raises(UserError, match=f"^file: {name} .*trainer.lr"):
            composed("distill", words(name, model="a", teacher="b", lr="-1"), at=f"file: {name}")
