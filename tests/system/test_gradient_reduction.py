"""What ranks compute in bfloat16 is added up in float32: real DeepSpeed on gloo, every stage."""

from pathlib import Path

import pytest
from rank_processes import run_ranks

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("reduction_rank.py")
EXACT = 1e-6  # of sums in float32
ROUNDED = 5e-4  # a sum that is rounded to bfloat16 is farther off


def differences(tmp_path: Path, model: Path, *, ranks: int, stages: str) -> list[list[float]]:
    """How far gradients are from the sum of what the ranks add to them, relatively, by stage.

    Returns them as they are by default, and with ``reduce_dtype=bfloat16``.
    """
    found = run_ranks(
        SCRIPT,
        tmp_path,
        ranks=ranks,
        first=[str(model)],
        control=stages,
        num_ports=2 * len(stages),
    )
    return [found["float32"], found["bfloat16"]]


def test_what_is_divided_is_added_up_in_float32_unless_told_otherwise(tmp_path, tiny_model):
    exact, rounded = differences(tmp_path, tiny_model, ranks=2, stages="123")
    assert max(exact) < EXACT, exact
    assert min(rounded) > ROUNDED, rounded


def test_stage_0_rounds_a_sum_once(tmp_path, tiny_model):
    """It keeps gradients in bfloat16. Of two ranks the sum would be rounded once either way."""
    (exact,), (rounded,) = differences(tmp_path, tiny_model, ranks=4, stages="0")
    assert EXACT < exact < 0.9 * rounded, (exact, rounded)
