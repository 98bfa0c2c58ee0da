"""Every optimizer on real DeepSpeed makes the updates of an independent one; a resumed one its own.

The gradients are the engine's own, which test_gradient_parity.py compares with plain torch.
"""

import pytest
from rank_processes import run_ranks

from rlpost.training.optimizers import optimizers

pytestmark = pytest.mark.timeout(900)  # ranks start slowly beside others
SCRIPT = __file__.replace("test_optimizer_parity", "optimizer_rank")
MOVED = 5e-4  # in ten updates, on average: each is at most about as long as the learning rate


def updates(tmp_path, model, *, ranks: int, dtype: str, control: str = "none"):
    first = [str(model), dtype, str(tmp_path)]
    return run_ranks(SCRIPT, tmp_path, ranks=ranks, first=first, control=control, num_ports=12)


@pytest.mark.parametrize(("ranks", "dtype"), [(1, "bfloat16"), (2, "float32")])
def test_ten_updates_are_those_of_the_reference(tmp_path, tiny_model, ranks, dtype):
    found = updates(tmp_path, tiny_model, ranks=ranks, dtype=dtype)
    assert found.keys() == {entry.name for entry in optimizers}
    for kind, numbers in found.items():
        assert numbers["updates"] == 10 and numbers["moved"] > MOVED, kind
        if kind == "adamw_8bit":  # single entries differ more
            assert numbers["mean"] < 2e-4, numbers
        else:
            bound = 5e-5 if kind == "muon" else 2e-5  # torch's Newton-Schulz rounds to bfloat16
            assert numbers["largest"] < bound, (kind, numbers)
        assert numbers.get("resumed", True), kind
    sizes = {
        kind: numbers["state_gb"] / found["adamw"]["state_gb"] for kind, numbers in found.items()
    }
    assert sizes["adam_mini"] < 0.6 and sizes["adafactor"] < 0.1 and sizes["adamw_8bit"] < 0.35
    assert sizes["galore"] < 1 and sizes["muon"] < 1


@pytest.mark.parametrize(("control", "dtype"), [("unclipped", "float32"), ("counted", "bfloat16")])
def test_a_wrong_update_would_be_noticed(tmp_path, tiny_model, control, dtype):
    ((_, numbers),) = updates(tmp_path, tiny_model, ranks=1, dtype=dtype, control=control).items()
    assert numbers["largest"] > 1e-4, numbers
