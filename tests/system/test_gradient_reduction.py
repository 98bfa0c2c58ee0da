"""What ranks compute in bfloat16 is added up in float32: real DeepSpeed on gloo, every stage."""

from pathlib import Path

import pytest
from rank_processes import run_ranks

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("reduction_rank.py")
EXACT = 1e-6  # of sums in float32
ROUNDED = 5e-4  # a sum that is rounded to bfloat16 is farther off


def differences(tmp_path: Path, model: Path, *, ranks: int, reduce_dtype: str) -> list[float]:
    """How far the gradient is from the sum of what the ranks add to it, relatively, by stage."""
    found = run_ranks(
        SCRIPT, tmp_path, ranks=ranks, first=[str(model)], control=reduce_dtype, num_ports=4
    )
    return [found[f"stage {stage}"] for stage in range(4)]


def test_gradients_are_added_up_in_float32_unless_told_otherwise(tmp_path, tiny_model):
    exact = differences(tmp_path, tiny_model, ranks=4, reduce_dtype="float32")
    rounded = differences(tmp_path, tiny_model, ranks=4, reduce_dtype="bfloat16")
    assert max(exact[1:]) < EXACT, exact
    assert min(rounded) > ROUNDED, rounded
    # Stage 0 keeps gradients in bfloat16: the sum is rounded once, and none of its terms.
    assert EXACT < exact[0] < 0.9 * rounded[0], (exact, rounded)
