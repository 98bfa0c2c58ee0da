"""Every objective: the gradient depends on neither micro-batches nor packing order nor ranks."""

from pathlib import Path

import pytest
from rank_processes import run_ranks

from rlpost.algorithms.losses import losses

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("loss_parity_rank.py")
BOUND = 1e-5
OBJECTIVES = {entry.name for entry in losses} | {"likelihood", "pairs"}


@pytest.mark.parametrize(("ranks", "how"), [(1, "none"), (2, "none"), (2, "divided")])
def test_every_objective_agrees_with_one_pass_over_the_whole_batch(
    tmp_path, tiny_model, ranks, how
):
    found = run_ranks(SCRIPT, tmp_path, ranks=ranks, first=[str(tiny_model)], control=how)
    assert {case.partition(",")[0] for case in found} == OBJECTIVES
    assert max(found.values()) < BOUND, found


def test_a_local_mean_would_be_noticed_in_every_objective(tmp_path, tiny_model):
    found = run_ranks(SCRIPT, tmp_path, ranks=1, first=[str(tiny_model)], control="local_mean")
    split = {case: gap for case, gap in found.items() if "1 micro" not in case}
    assert {case.partition(",")[0] for case in split} == OBJECTIVES
    assert all(gap > 1e-2 for gap in split.values()), split
