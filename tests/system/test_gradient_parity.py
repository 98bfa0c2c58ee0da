"""The gradient does not depend on the split: real DeepSpeed on gloo against plain torch.

Nor do the updates of adapters, against plain peft, and the ranks that AdaLoRA takes away.
"""

from pathlib import Path

import pytest
from rank_processes import run_ranks

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = Path(__file__).with_name("parity_rank.py")
BOUND = 1e-5
UPDATED_BOUND = 1e-3  # of adapters after updates by Adam, which magnifies the smallest gradients


def differences(
    tmp_path: Path, model: Path, *, ranks: int, role: str = "policy", control: str = "none"
):
    """Relative gradient difference of each of the script's cases."""
    first = [role, str(model)]
    return run_ranks(SCRIPT, tmp_path, ranks=ranks, first=first, control=control, num_ports=19)


@pytest.mark.parametrize(
    ("role", "fixture", "ranks"),  # a critic of one rank: training/zero/test_deepspeed_critic.py
    [("policy", "tiny_model", 1), ("policy", "tiny_model", 2), ("critic", "tiny_reward", 2)],
)
def test_stages_ranks_and_micro_batches_agree_with_plain_torch(
    tmp_path, role, fixture, ranks, request
):
    model = request.getfixturevalue(fixture)
    found = differences(tmp_path, model, ranks=ranks, role=role)
    gradients = {case: gap for case, gap in found.items() if case.startswith("stage")}
    assert len(gradients) == 8
    assert max(gradients.values()) < BOUND, found
    adapters = {case: gap for case, gap in found.items() if case not in gradients}
    assert len(adapters) == (7 if role == "policy" else 0)  # each kind and stage
    assert max(adapters.values(), default=0.0) < UPDATED_BOUND, found


def test_a_local_mean_would_be_noticed(tmp_path, tiny_model):
    found = differences(tmp_path, tiny_model, ranks=1, control="local_mean")
    assert found and min(found.values()) > 1e-2, found


def test_a_missing_boundary_call_would_be_noticed(tmp_path, tiny_model):
    found = differences(tmp_path, tiny_model, ranks=1, control="no_boundary")
    assert found and min(found.values()) > 1e-2, found


@pytest.mark.parametrize(
    ("role", "fixture", "ranks", "how"),
    [
        ("policy", "tiny_model", 2, "divided"),  # the one key-value head is repeated
        ("policy", "tiny_model", 4, "divided twice"),
        ("critic", "tiny_reward", 2, "divided twice"),
    ],
)
def test_ranks_that_divide_a_micro_batch_agree_with_plain_torch(
    tmp_path, role, fixture, ranks, how, request
):
    model = request.getfixturevalue(fixture)
    found = differences(tmp_path, model, ranks=ranks, role=role, control=how)
    assert len(found) == (4 if how == "divided" else 1)
    assert max(found.values()) < BOUND, found


def test_ranks_that_do_not_exchange_their_tokens_would_be_noticed(tmp_path, tiny_model):
    found = differences(tmp_path, tiny_model, ranks=2, control="no_exchange")
    assert found and min(found.values()) > 1e-2, found
