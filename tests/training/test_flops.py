"""Operations are those that torch counts; the metric is there where a peak is known."""

import pytest
import torch
from one_rank import trainer
from packed_groups import load_plain, pack_into, random_groups
from torch.utils.flop_counter import FlopCounterMode

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.flops import Meter, peak_flops, training_flops
from rlpost.training.packing.work import ForwardWork
from rlpost.training.zero.deepspeed_weights import weight_shapes

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


def test_peaks_are_found_by_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA L40S") == 362e12 and peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12 and peak_flops("NVIDIA L40") == 181e12
    assert peak_flops("Tesla K80") is None and peak_flops("NVIDIA RTX A1000") is None


@pytest.mark.parametrize("model", ["tiny_model", "tiny_untied_model"])
def test_operations_are_those_that_torch_counts(model, request, monkeypatch):
    path = request.getfixturevalue(model)
    batches = pack_into(*random_groups(), num_micro_batches=1).batches[0]
    with trainer(path, zero_stage=3) as built:
        model = built.module.model
        work = ForwardWork.of(model.config, weight_shapes(model))
        built._usage.meter = Meter(work, peak=1e9)
        built.forward_backward(batches, OBJECTIVE)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        metrics = built.optim_step(1)
        expected = training_flops(work, batches)
        assert 0 < metrics["perf/mfu/actor"] < expected / 1e9 / 1e-4
        assert "perf/mfu/actor" in built.optim_step(1)  # repeated: as recorded
    # Torch counts a plain model with plain attention, which looks at all pairs, not half of them.
    plain = load_plain(path)
    plain.set_attn_implementation("eager")
    length = 11
    with FlopCounterMode(display=False) as counter:
        plain(input_ids=torch.arange(1, length + 1)[None], use_cache=False).logits.sum().backward()
    counted = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    assert counted["aten.mm"] == 3 * 2 * (work.body + work.head) * length
    assert counted["aten.bmm"] == pytest.approx(3 * 4 * work.attention * length**2, rel=0.01)
