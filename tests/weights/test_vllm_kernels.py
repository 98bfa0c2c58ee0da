"""What of a model is digested: all that a kernel uses, and where it has packed a weight, that copy.

On the models of a living engine it is tested in tests/system/.
"""

import torch
from torch import nn
from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

from rlpost.weights.vllm_kernels import kernel_digest


def model(*, packs: bool) -> nn.Sequential:
    """Two layers; the kernel of the second may compute with a copy that no tensor shows."""
    torch.manual_seed(0)
    built = nn.Sequential(nn.Linear(300, 5), nn.Linear(5, 7, bias=False))
    built.register_buffer("scale", torch.ones(3))
    built.register_buffer("cache", torch.ones(3), persistent=False)
    record_metadata_for_reloading(built)
    if packs:
        layer = built[1]
        layer.packed = [layer.weight.detach().clone()]  # in a list: no attribute shows it
        layer.cpu_linear = lambda x, weight, bias: x @ layer.packed[0].t()
        layer.weight = nn.Parameter(torch.empty(0))
    return built


def flip(tensor: torch.Tensor) -> None:
    tensor.data.view(-1).view(torch.int32)[-1] ^= 1


def test_every_tensor_counts_and_what_no_checkpoint_has_does_not():
    whole = kernel_digest(model(packs=False))
    assert kernel_digest(model(packs=False)) == whole
    for find in (lambda m: m[0].weight, lambda m: m[0].bias, lambda m: m.scale):
        changed = model(packs=False)
        flip(find(changed))
        assert kernel_digest(changed)[0] == whole[0] and kernel_digest(changed)[1] != whole[1]
    changed = model(packs=False)
    flip(changed.cache)
    assert kernel_digest(changed) == whole


def test_a_packed_copy_counts_though_the_weight_is_gone():
    whole = kernel_digest(model(packs=True))
    assert kernel_digest(model(packs=True)) == whole
    changed = model(packs=True)
    flip(changed[1].packed[0])
    assert kernel_digest(changed)[0] == whole[0] and kernel_digest(changed)[1] != whole[1]
    unseen = model(packs=True)
    del unseen[1].cpu_linear  # negative control: without the product nothing shows it
    blind = kernel_digest(unseen)
    flip(unseen[1].packed[0])
    assert kernel_digest(unseen) == blind


def test_another_layout_is_not_alike():
    assert kernel_digest(model(packs=True))[0] != kernel_digest(model(packs=False))[0]
