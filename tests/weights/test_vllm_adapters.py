"""What the worker does with adapters before vLLM's manager sees them; kernels are left out."""

from types import SimpleNamespace

import pytest
import torch

from rlpost.errors import WeightPushError
from rlpost.weights.adapter import tensor_name
from rlpost.weights.manifest import PushManifest
from rlpost.weights.vllm_adapters import HeldAdapters

LAYER = "model.layers.0.self_attn.q_proj"
CONFIG = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj"]}


class Manager:
    """Holds as many adapters as vLLM's would before it evicts one."""

    def __init__(self, capacity: int = 2) -> None:
        self.model, self.capacity = SimpleNamespace(), capacity
        self.modules = {"model.layers.0.self_attn.qkv_proj": None}
        self.packed_modules = {"model.layers.0.self_attn.qkv_proj": [LAYER]}
        self.held: dict[int, object] = {}
        self.active: list[int] = []

    def __len__(self):
        return len(self.held)

    def list_adapters(self):
        return self.held

    def add_adapter(self, adapter):
        for layer in adapter.loras.values():
            layer.optimize()  # as vLLM's does: in place
        self.held[adapter.id] = adapter

    def activate_adapter(self, version):
        self.active.append(version)

    def remove_adapter(self, version):
        del self.held[version]


def held(capacity: int = 2) -> tuple[HeldAdapters, Manager]:
    manager = Manager(capacity)
    config = SimpleNamespace(lora_dtype=torch.float32, max_lora_rank=8)
    workers = SimpleNamespace(
        lora_config=config, max_position_embeddings=64, vocab_size=320, _adapter_manager=manager
    )
    return HeldAdapters(workers), manager


def sent(version: int, *, layer: str = LAYER, **config):
    tensors = {tensor_name(layer, "A"): torch.ones(2, 6), tensor_name(layer, "B"): torch.ones(8, 2)}
    manifest = PushManifest(version=version, entries=(), adapter=CONFIG | config)
    return manifest, list(tensors.items())


def load(adapters: HeldAdapters, version: int, *, keep=()) -> None:
    adapters.receive(*sent(version))
    adapters.load(version, keep=keep)


def test_versions_come_and_go_as_they_are_needed():
    adapters, manager = held()
    load(adapters, 1)
    load(adapters, 2, keep=[1])
    assert list(manager.held) == [1, 2] == manager.active
    load(adapters, 3, keep=[2])
    assert list(manager.held) == [2, 3]
    adapters.keep([2])
    assert list(manager.held) == [2]


def test_a_payload_stays_as_it_was_sent():
    """vLLM multiplies matrices by their scale in place, and others read the same pages."""
    adapters, manager = held()
    manifest, tensors = sent(1)
    adapters.receive(manifest, tensors)
    adapters.load(1, keep=[])
    assert manager.held[1].loras[LAYER].lora_b.unique().tolist() == [4.0]  # 8 / 2
    assert dict(tensors)[tensor_name(LAYER, "B")].unique().tolist() == [1.0]


def test_one_too_many_is_refused_and_none_is_evicted():
    adapters, manager = held(capacity=1)
    load(adapters, 1)
    adapters.receive(*sent(2))
    with pytest.raises(WeightPushError, match=r"no room for version 2 beside \[1\]"):
        adapters.load(2, keep=[1])
    assert list(manager.held) == [1]


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"layer": "model.layers.0.mlp.gate"}, r"no adapters for \['model.layers.0.mlp.gate'\]"),
        ({"r": 16}, "greater than max_lora_rank 8"),
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "init"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
    ],
)
def test_what_the_engine_would_not_apply_is_refused(options, refusal):
    adapters, _ = held()
    with pytest.raises(WeightPushError, match=f"version 1.*{refusal}"):
        adapters.receive(*sent(1, **options))
    with pytest.raises(WeightPushError, match="no verified adapter of version 1"):
        adapters.load(1, keep=[])
