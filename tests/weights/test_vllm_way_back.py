"""Both forms of the way back, on a module that keeps packed objects as vLLM's layers do."""

import pytest
import torch
from torch import nn

from rlpost.training.pinned_memory import NotPinned
from rlpost.weights.vllm_way_back import CopyBehindCommit, CopyWhileUndecided, storages


class Method:
    """As vLLM's ``quant_method``, which packs what it computes with."""

    moe_kernel = None

    def pack(self, layer: nn.Module) -> None:
        packed = layer.weight.detach().clone()
        layer.compute = lambda x: x @ packed.T  # an object that no storage of the module holds
        self.moe_kernel = object()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4), requires_grad=False)
        self.register_buffer("scale", torch.ones(3), persistent=False)
        self.bias = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.quant_method = Method()
        self.quant_method.pack(self)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Layer(), Layer()
        self.two.weight = self.one.weight  # tied

    def forward(self, x):
        return self.two.compute(self.one.compute(x)) + self.one.bias * self.one.scale[0]


def reload_in_place(model: Model, *, packs: bool) -> None:
    """Change everything that a reload may change."""
    with torch.no_grad():
        for layer in (model.one, model.two):
            layer.weight.copy_(torch.randn(4, 4))
            layer.scale.add_(1)
            if packs:
                layer.bias.data = torch.randn(4)  # another storage
                layer.quant_method.pack(layer)
                layer.extra = 1


class HostMemory:
    """See ``vllm_way_back.SideMemory``; copies are begun here and done in ``settle``."""

    def __init__(self) -> None:
        self.waiting, self.rooms, self.full = [], 0, False

    def room(self, size_bytes):
        if self.full:
            raise NotPinned("no room")
        self.rooms += 1
        return [torch.empty(10, dtype=torch.uint8) for _ in range(-(-size_bytes // 10))]

    def copy_out(self, pairs):
        self.waiting = pairs

    def settle(self):
        for source, copy in self.waiting:
            copy.copy_(source)
        self.waiting = []

    def copy_back(self, pairs):
        for target, copy in pairs:
            target.copy_(copy)


def state(model: Model):
    addresses = [each.data_ptr() for each in storages(model)]
    values = {name: each.clone() for name, each in model.state_dict().items()}
    objects = [(each.compute, each.quant_method.moe_kernel) for each in (model.one, model.two)]
    return addresses, values, objects, hasattr(model.one, "extra")


def same(one, other) -> bool:
    return (
        one[0] == other[0]
        and one[2:] == other[2:]
        and all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    )


@pytest.mark.parametrize("packs", [True, False])
def test_a_copy_while_undecided_restores_bytes_addresses_and_objects(packs):
    model, x = Model(), torch.randn(2, 4)
    before, answer = state(model), model(x)
    way_back = CopyWhileUndecided()
    way_back.take(model)
    reload_in_place(model, packs=packs)
    assert not same(before, state(model))
    assert way_back.restore(model) and same(before, state(model))
    assert torch.equal(model(x), answer) and model.two.weight is model.one.weight
    assert not way_back.restore(model)  # it is used up
    way_back.take(model)
    reload_in_place(model, packs=packs)
    way_back.committed(model)
    assert not way_back.restore(model)


def test_a_copy_behind_the_commit_restores_storages_in_place():
    model, memory = Model(), HostMemory()
    way_back = CopyBehindCommit(memory)
    way_back.take(model)
    assert not way_back.restore(model)  # nothing was committed yet
    for _ in range(2):
        reload_in_place(model, packs=False)
        way_back.committed(model)
        before = state(model)
        way_back.take(model)  # what was begun behind the commit is done before anything changes
        assert not memory.waiting
        reload_in_place(model, packs=False)
        assert way_back.restore(model) and same(before, state(model))
    assert memory.rooms == 1  # the same pages


def test_each_storage_is_copied_once():
    model = Model()
    assert sum(each.numel() for each in storages(model)) == 4 * (16 + 2 * 3 + 2 * 4)


def test_without_room_for_the_copy_there_is_no_way_back():
    model, memory = Model(), HostMemory()
    way_back = CopyBehindCommit(memory)
    way_back.committed(model)
    model.register_buffer("more", torch.ones(1000))  # the copy of before is too small
    memory.full = True
    with pytest.raises(NotPinned):
        way_back.committed(model)
    assert not way_back.restore(model)
    memory.full = False
    way_back.committed(model)
    way_back.take(model)
    assert way_back.restore(model)
