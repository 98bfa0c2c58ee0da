"""Fine-tuning equals a plain loop: real DeepSpeed on gloo, masks, packing, micro-batches, ranks."""

from pathlib import Path

import pytest
import torch
from packed_groups import relative_difference
from plain_sft import Curves, Settings, batches, plain_curves
from rank_processes import run_ranks

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("sft_parity_rank.py")
MASKS = ("assistant", "last", "all")
STEPS = Settings().steps


@pytest.fixture(scope="module")
def plain(tiny_untied_model) -> dict[str, Curves]:
    """What is trained -> the curves of the plain loop."""
    return {
        mask: plain_curves(tiny_untied_model, batches(STEPS, examples=6), Settings(train_on=mask))
        for mask in MASKS
    }


def gaps(found: dict, theirs: Curves) -> tuple[float, float]:
    """Largest relative difference of loss and gradient norm: at the first step, and later."""
    pairs = [
        abs(ours / reference - 1)
        for name in ("loss", "grad_norm")
        for ours, reference in zip(found[name], getattr(theirs, name), strict=True)
    ]
    firsts = [pairs[0], pairs[STEPS]]
    return max(firsts), max(pairs)


@pytest.mark.parametrize("ranks", [1, 2])
def test_curves_are_those_of_the_plain_loop(tmp_path, tiny_untied_model, plain, ranks):
    found = run_ranks(
        SCRIPT, tmp_path, ranks=ranks, first=[str(tiny_untied_model)], control="none", num_ports=2
    )
    assert len(found) == ranks * 9  # as many stages, 3 masks, 3 ways to split a batch
    for case, curves in found.items():
        theirs = plain[case.split(", ")[1]]
        first, later = gaps(curves, theirs)
        assert first < 1e-5 and later < 1e-3, (case, curves, theirs.loss, theirs.grad_norm)
        gradient = torch.load(tmp_path / curves["gradient"], weights_only=True)
        assert relative_difference(gradient, theirs.gradient) < 1e-5, case
        assert curves["loss"][-1] < curves["loss"][0]
    counts = {tuple(curves["num_micro_batches"]) for curves in found.values()}
    assert len(counts) >= 3, "the cases must split the batch differently"


def test_usual_mistakes_would_be_noticed(tmp_path, tiny_untied_model, plain):
    found = run_ranks(SCRIPT, tmp_path, ranks=1, first=[str(tiny_untied_model)], control="each")
    assert len(found) == 3
    for case, curves in found.items():
        first, _ = gaps(curves, plain["assistant"])
        assert first > 1e-3, (case, curves)
