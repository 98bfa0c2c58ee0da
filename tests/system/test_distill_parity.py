"""Distillation equals a plain loop: real DeepSpeed on gloo, divergences, micro-batches, ranks."""

from pathlib import Path

import pytest
import torch
from packed_groups import relative_difference
from plain_distill import plain_curves
from plain_sft import Curves, Settings, batches
from rank_processes import run_ranks

from rlpost.models.tiny import build_tiny_llama

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("distill_parity_rank.py")
STEPS = Settings().steps
# Beta, temperature, and how many tokens of the teacher are stored; None: it is in the rank.
DIVERGENCES = ((0.0, 1.0, None), (0.5, 2.0, None), (1.0, 1.0, None), (0.5, 2.0, 8))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A deeper model of the family, whose vocabulary is padded further."""
    path = tmp_path_factory.mktemp("models") / "teacher"
    return build_tiny_llama(path, layers=3, vocabulary=384, seed=7)


@pytest.fixture(scope="module")
def plain(tiny_untied_model, teacher) -> dict[tuple[float, float, int | None], Curves]:
    """A divergence -> the curves of the plain loop."""
    return {
        (beta, temperature, top_k): plain_curves(
            tiny_untied_model,
            teacher,
            batches(STEPS, examples=6),
            Settings(),
            beta=beta,
            temperature=temperature,
            top_k=top_k,
        )
        for beta, temperature, top_k in DIVERGENCES
    }


def gaps(found: dict, theirs: Curves) -> tuple[float, float]:
    """Largest relative difference of loss and gradient norm: at the first step, and later."""
    pairs = [
        abs(ours / reference - 1)
        for name in ("loss", "grad_norm")
        for ours, reference in zip(found[name], getattr(theirs, name), strict=True)
    ]
    return max(pairs[0], pairs[STEPS]), max(pairs)


@pytest.mark.parametrize("ranks", [1, 2])
def test_curves_are_those_of_the_plain_loop(tmp_path, tiny_untied_model, teacher, plain, ranks):
    first = [str(tiny_untied_model), str(teacher)]
    found = run_ranks(SCRIPT, tmp_path, ranks=ranks, first=first, control="none", num_ports=2)
    assert len(found) == ranks * 8  # as many stages, 4 divergences, 2 ways to split a batch
    for case, curves in found.items():
        theirs = plain[curves["beta"], curves["temperature"], curves["top_k"]]
        at_first, later = gaps(curves, theirs)
        assert at_first < 1e-5 and later < 1e-3, (case, curves, theirs.loss, theirs.grad_norm)
        gradient = torch.load(tmp_path / curves["gradient"], weights_only=True)
        assert relative_difference(gradient, theirs.gradient) < 2e-5, case
        assert curves["loss"][-1] < curves["loss"][0]


def test_another_divergence_would_be_noticed(tmp_path, tiny_untied_model, teacher, plain):
    first = [str(tiny_untied_model), str(teacher)]
    found = run_ranks(SCRIPT, tmp_path, ranks=1, first=first, control="beta")
    for case, curves in found.items():
        at_first, _ = gaps(curves, plain[curves["beta"], curves["temperature"], curves["top_k"]])
        assert at_first > 1e-3, (case, curves)
