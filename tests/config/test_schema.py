"""A run's name is one safe path segment."""

import pytest

from rlpost.config.schema import is_safe_name


@pytest.mark.parametrize(
    "name",
    ["a", "rl-trainer.lr=1e-5,seed=1", "my run", "日本", "x" * 200, "a.b", "a-b", "a:b"],
)
def test_safe_names(name):
    assert is_safe_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/a", "a\\b", "-rf", ".hidden", " a", "a ", "a\n", "a\tb",
     "a\0b", "\x1b[31m", "\udcff", "\u200e", "\u2028", "x" * 201, "é" * 101],
    ids=ascii,
)  # fmt: skip
def test_names_that_lead_elsewhere_or_cannot_be_typed(name):
    assert not is_safe_name(name)
