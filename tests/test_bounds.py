"""Bounds of numbers: every numeric field of every config dataclass declares one."""

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from rlpost.algorithms.ratio import LOG_RATIO_BOUND
from rlpost.bounds import bound_of, check_config, help_of, number, numbers, option
from rlpost.config.groups import registries
from rlpost.config.schema import RLConfig
from rlpost.errors import UserError
from rlpost.launch.sweep.launcher import ProcessesConfig, RayJobsConfig
from rlpost.launch.sweep.optuna import OptunaConfig
from rlpost.training.reward.settings import RewardModelConfig

ROOTS = [
    RLConfig,
    RewardModelConfig,
    ProcessesConfig,
    RayJobsConfig,
    OptunaConfig,
    *(entry.config for registry in registries("rl").values() for entry in registry),
]


def parts_of(annotation):
    """The annotation and what it is made of: ``int | None`` holds ``int``."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from parts_of(part)


def numeric_fields(root):
    """(dataclass, field) for every numeric field below ``root``."""
    hints = typing.get_type_hints(root)
    for declared in dataclasses.fields(root):
        parts = list(parts_of(hints[declared.name]))
        if int in parts or float in parts:
            yield root, declared
        for part in parts:
            if dataclasses.is_dataclass(part):
                yield from numeric_fields(part)


def unbounded(root):
    return [f"{config.__name__}.{f.name}" for config, f in numeric_fields(root) if not bound_of(f)]


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_every_number_of_a_configuration_has_a_bound(root):
    assert unbounded(root) == []


def options(root):
    """(dataclass, field) for every field below ``root`` that a user sets by itself."""
    hints = typing.get_type_hints(root)
    for declared in dataclasses.fields(root):
        if dataclasses.is_dataclass(hints[declared.name]):
            yield from options(hints[declared.name])
        elif not declared.metadata.get("omegaconf_ignore"):
            yield root, declared


def without_help(root):
    """Options whose line of help says nothing, or does not fit on a line."""
    return [
        f"{config.__name__}.{declared.name}"
        for config, declared in options(root)
        if declared.name not in ("kind", "_target_") and not is_line(help_of(declared), declared)
    ]


def is_line(text, declared):
    words = re.sub(r"\W+", " ", text.replace("_", " ")).strip().lower()
    plain = text.isprintable() and text == text.strip() and not text.endswith(".")
    return plain and 6 <= len(text) <= 90 and words != declared.name.replace("_", " ")


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.__name__)
def test_every_option_has_a_line_of_help(root):
    assert without_help(root) == []


@dataclass(kw_only=True)
class Mute:
    said: bool = option(True, help="a clear phrase")
    silent: bool = False
    empty: int = number(1, at_least=1, at_most=2, help="")
    max_tokens: int = number(1, at_least=1, at_most=2, help="max tokens")
    broken: str = option("", help="two\nlines")
    chatty: str = option("", help="word " * 30 + "end")


def test_an_option_without_a_useful_line_is_found():
    assert without_help(Mute) == [f"Mute.{name}" for name in Mute.__dataclass_fields__][1:]


@dataclass(kw_only=True)
class Loose:
    bounded: int = number(1, at_least=1, at_most=2)
    loose: int | None = None


@dataclass(kw_only=True)
class HoldsLoose:
    inner: Loose = field(default_factory=Loose)
    named: dict[str, float] = field(default_factory=dict)


def test_a_number_without_a_bound_is_found():
    assert unbounded(HoldsLoose) == ["Loose.loose", "HoldsLoose.named"]


def test_nan_and_infinity_pass_no_bound_but_the_one_that_names_infinity():
    for root in ROOTS:
        for _, declared in numeric_fields(root):
            bound = bound_of(declared)
            assert not bound.holds(math.nan)
            assert not bound.holds(-math.inf)
            assert bound.holds(math.inf) == (declared.name == "high" and bound.high == math.inf)


@dataclass(kw_only=True)
class Leaf:
    share: float = number(0.5, above=0, below=1, hint="0.5 is usual")
    count: int | None = number(None, at_least=1, at_most=10**9)
    ids: list[int] = numbers(at_least=0, at_most=9)


@dataclass(kw_only=True)
class Tree:
    leaf: Leaf = field(default_factory=Leaf)
    named: dict[str, typing.Any] = field(default_factory=dict)
    steps: int = number(3, at_least=0, at_most=10)

    def check(self, path: str) -> None:
        if self.leaf.count is not None and self.leaf.count > self.steps:
            raise UserError(f"{path}: more than steps")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Tree(leaf=Leaf(share=1.0)), "top.leaf.share must be in (0, 1), got 1.0; 0.5 is usual"),
        (Tree(leaf=Leaf(share=math.nan)), "top.leaf.share must be in (0, 1), got nan; 0.5"),
        (Tree(leaf=Leaf(count=0)), "top.leaf.count must be in [1, 1e9], got 0"),
        (Tree(leaf=Leaf(count=10**400)), "top.leaf.count must be in [1, 1e9], got an integer of"),
        (Tree(named={"x": Leaf(share=0.0)}), "top.named.x.share must be in (0, 1), got 0.0"),
        (Tree(leaf=Leaf(ids=[9, 10])), "top.leaf.ids[1] must be in [0, 9], got 10"),
        (Tree(steps=11), "top.steps must be in [0, 10], got 11"),
        (Tree(leaf=Leaf(count=4)), "top: more than steps"),
    ],
)
def test_the_walk_names_the_field_its_value_and_the_way_out(tree, message):
    with pytest.raises(UserError) as caught:
        check_config(tree, "top")
    assert str(caught.value).startswith(message)


def test_a_tree_within_its_bounds_passes_also_after_omegaconf():
    check_config(Tree(leaf=Leaf(count=3), named={"x": Leaf(), "plain": {"a": 1}}))
    tree = OmegaConf.to_object(OmegaConf.structured(Tree))
    check_config(tree)
    assert tree == Tree()


def test_a_default_outside_its_bound_or_half_a_bound_is_our_bug():
    for wrong in ({"at_least": 1, "at_most": 2}, {"at_least": 0}, {"above": 0, "at_least": 0}):
        with pytest.raises(AssertionError):
            number(0, **wrong)


def test_the_lowest_veto_is_told_apart_from_the_bound_of_ratios():
    fields = {
        f.name: f
        for f in dataclasses.fields(registries("rl")["algorithm/corrections"].get("veto").config)
    }
    low = bound_of(fields["threshold"]).low
    assert math.exp(-LOG_RATIO_BOUND) < low < 2 * math.exp(-LOG_RATIO_BOUND)
