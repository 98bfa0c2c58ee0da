import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlpost.algorithms.running import RunningStatistics

FLOATS = st.floats(-1e3, 1e3, allow_nan=False)


def of(values) -> RunningStatistics:
    running = RunningStatistics()
    running.update(values)
    return running


def test_by_hand():
    running = of([1.0, 2.0, 3.0])
    assert (running.count, running.mean, running.std) == (3, 2.0, 1.0)
    assert running.normalized(3.0) == pytest.approx(1.0)


@given(st.lists(FLOATS, min_size=2, max_size=30))
def test_moments_are_those_of_the_whole_list(values):
    running = of(values)
    assert running.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert running.std == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_a_large_offset_costs_no_precision():
    """Negative control: E[x^2] - E[x]^2 would lose everything here."""
    values = [1e9, 1e9 + 1, 1e9 + 2]
    assert of(values).std == pytest.approx(1.0)
    naive = sum(v * v for v in values) / 3 - (sum(values) / 3) ** 2
    assert abs(naive - 2 / 3) > 0.1


def test_equal_values_are_only_shifted_and_nothing_yet_is_harmless():
    assert of([2.0, 2.0]).normalized(5.0) == 3.0
    assert RunningStatistics().normalized(5.0) == 5.0


def test_state_survives_json():
    running, loaded = of([0.1, 0.2, 0.7]), RunningStatistics()
    loaded.load_state_dict(json.loads(json.dumps(running.state_dict())))
    assert loaded == running


def test_what_is_not_finite_is_a_bug_of_the_caller():
    with pytest.raises(AssertionError):
        of([float("nan")])
