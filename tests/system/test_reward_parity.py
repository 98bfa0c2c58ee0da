"""Reward models learn as a plain loop does: real DeepSpeed, packing, micro-batches, ranks."""

from pathlib import Path

import pytest
import torch
from packed_groups import relative_difference
from plain_reward import gradient_of, pair_loss, pair_rows, step_loss, step_rows
from rank_processes import run_ranks
from reward_models import build_step_model, load_plain_classifier

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("reward_parity_rank.py")
ROWS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_reward, tiny_model) -> list[str]:
    """Models of pairs and of steps whose heads say something."""
    steps = build_step_model(tmp_path_factory.mktemp("models") / "steps", tiny_model)
    return [str(tiny_reward), str(steps)]


@pytest.fixture(scope="module")
def plain(models) -> dict[str, tuple[float, dict[str, torch.Tensor]]]:
    """What is judged -> loss and gradient of the plain loop."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    pairs, steps = models
    tokenizer = AutoTokenizer.from_pretrained(pairs)
    scorer = load_plain_classifier(pairs)
    judge = AutoModelForTokenClassification.from_pretrained(steps, dtype=torch.float32).eval()
    of_pairs = pair_loss(scorer, tokenizer, pair_rows(ROWS), centre=0.05, margins=True)
    of_steps = step_loss(judge, tokenizer, step_rows(ROWS))
    return {
        "pairs": (of_pairs.item(), gradient_of(scorer, of_pairs)),
        "steps": (of_steps.item(), gradient_of(judge, of_steps)),
    }


def compared(tmp_path, plain, found) -> list[float]:
    """Return the relative difference of each case's gradient."""
    gaps = []
    for case, each in found.items():
        _, gradient = plain[case.split(", ")[0]]
        ours = torch.load(tmp_path / each["gradient"], weights_only=True)
        gaps.append(relative_difference(ours, gradient))
    return gaps


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_are_those_of_the_plain_loop(tmp_path, models, plain, ranks):
    found = run_ranks(SCRIPT, tmp_path, ranks=ranks, first=models, control="none", num_ports=4)
    assert len(found) == ranks * 8  # as many stages, 2 kinds, 4 ways to split a batch
    for (case, each), gap in zip(found.items(), compared(tmp_path, plain, found), strict=True):
        loss, _ = plain[case.split(", ")[0]]
        assert each["loss"] == pytest.approx(loss, rel=1e-5), case
        assert gap < 1e-5, case
    assert len({each["num_micro_batches"] for each in found.values()}) >= 3


def test_a_local_mean_would_be_noticed(tmp_path, models, plain):
    found = run_ranks(SCRIPT, tmp_path, ranks=1, first=models, control="local", num_ports=2)
    whole = [each["num_micro_batches"] == 1 for each in found.values()]
    gaps = compared(tmp_path, plain, found)
    assert all(gap > 1e-3 for gap, is_whole in zip(gaps, whole, strict=True) if not is_whole)
    assert sum(whole) < len(whole)
