"""Calibration and correlation, by hand and by laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.evaluation.calibration import calibration, correlation, probability


def told(*pairs):
    chances, truths = zip(*pairs, strict=True)
    return calibration(np.array(chances), np.array(truths))


def test_by_hand():
    found = told((0.95, True), (0.95, False), (0.05, False), (0.65, True))
    assert found.accuracy_of_bin == pytest.approx({"60-70": 1.0, "90-100": 2 / 3})
    assert found.error == pytest.approx(0.75 * (0.95 - 2 / 3) + 0.25 * (1 - 0.65))


def test_what_knows_nothing_is_calibrated():
    found = told((0.5, True), (0.5, True), (0.5, False))
    assert found.error == 0.0
    assert found.accuracy_of_bin == {"50-60": 0.5}


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20))
def test_to_judge_the_opposite_is_the_same(pairs):
    found, mirrored = told(*pairs), told(*((1 - p, not true) for p, true in pairs))
    assert found.error == pytest.approx(mirrored.error, abs=1e-9)
    assert 0 <= found.error <= 1


def test_a_correlation_needs_two_things_that_vary():
    assert correlation(np.array([1.0, 2.0, 4.0]), np.array([-2.0, -4.0, -8.0])) == pytest.approx(-1)
    assert correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None
    assert correlation(np.array([1.0]), np.array([1.0])) is None


def test_probabilities_never_overflow():
    found = probability(np.array([-1e9, 0.0, np.log(3), 1e9]))
    assert found.tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0])
