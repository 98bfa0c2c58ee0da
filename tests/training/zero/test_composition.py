"""Adapters with optimizers, recomputed activations and parking: the updates are those without.

The plain form of an optimizer on LoRA is peft with the reference of plain_optimizers.py; that of
another adapter is its own run without the rest.
"""

import pytest
import torch
from one_rank import trainer
from packed_groups import load_plain, pack_into, plain_scores, random_groups
from peft import LoraConfig, PeftModel, get_peft_model
from peft_adapters import LINEAR, planned
from plain_optimizers import GAP, RANK, SCALE, SETTINGS, plain
from safetensors.torch import load_file

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.model.loading import TrainedModel
from rlpost.training.optimizers import optimizers
from rlpost.training.settings import TrainerConfig

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
LR, STEPS = 0.01, 3
OPTIONS = {"galore": {"rank": RANK, "gap": GAP, "scale": SCALE}}


def config(kind: str):
    return optimizers.get(kind).config(**OPTIONS.get(kind, {}))


def batches():
    return pack_into(*random_groups(), num_micro_batches=2).batches[0]


def updated(path, model, optimizer: str, *, place, composed: bool, **settings):
    """The exported tensors after some updates; ``composed``: recomputed, and parked in between."""
    options = {"zero_stage": 0, "max_grad_norm": 0.0, "lr": LR, "steps": STEPS, **settings}
    with trainer(
        path, model=model, optimizer=config(optimizer), gradient_checkpointing=composed, **options
    ) as built:
        for step in range(1, STEPS + 1):
            built.forward_backward(batches(), OBJECTIVE)
            built.optim_step(step)
            if composed:
                assert built.sleep() > 0
        built.export(place)
    return load_file(place / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def start(tiny_model, tmp_path_factory):
    """A LoRA in which both matrices have values, so that both have gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = LoraConfig(r=12, lora_alpha=12, target_modules=LINEAR, init_lora_weights=False)
        model = get_peft_model(load_plain(tiny_model), options)
    place = tmp_path_factory.mktemp("start")
    model.save_pretrained(place)
    return place


def by_reference(path, start, optimizer: str) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(load_plain(path), start, is_trainable=True)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reference = plain(optimizer)
    weights = {name: p.data for name, p in named.items()}  # the same objects in every update
    for _ in range(STEPS):
        for batch in batches():
            loss = torch.from_numpy(batch.columns["weight_R"] * -batch.columns["advantages_R"])
            (loss * plain_scores(model, batch)[0]).sum().backward()
        gradients = {name: p.grad.clone() for name, p in named.items()}
        reference.update(weights, gradients, LR)
        model.zero_grad()
    return {name.replace(".default.", "."): p.data for name, p in named.items()}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "adam_mini", "galore"])
def test_an_optimizer_on_lora_does_what_its_reference_does(optimizer, tiny_model, tmp_path, start):
    plan = plan_adaptation(
        NoAdapterConfig(), start=str(start), base=ModelDirectory.read(tiny_model), name="base"
    )
    model = TrainedModel.policy(str(tiny_model), TrainerConfig(logprob_chunk=32), adapter=plan)
    found = updated(tiny_model, model, optimizer, place=tmp_path, composed=True, **SETTINGS)
    expected, before = (
        by_reference(tiny_model, start, optimizer),
        load_file(start / "adapter_model.safetensors"),
    )
    assert found.keys() == expected.keys()
    apart = torch.cat([(found[n] - expected[n]).abs().flatten() for n in found])
    moved = torch.cat([(found[n] - before[n]).abs().flatten() for n in found])
    assert apart.mean() < 0.02 * moved.mean() and moved.mean() > 0.05 * LR, (
        float(apart.mean()),
        float(moved.mean()),
    )


@pytest.mark.parametrize(
    ("adapter", "optimizer"),
    [
        ("qlora", "adamw_8bit"),
        ("dora", "muon"),
        ("pissa", "galore"),
        ("vera", "adafactor"),
    ],
)
def test_recomputing_and_parking_change_no_update(adapter, optimizer, tiny_model, tmp_path):
    options = {"rank": 12} if adapter != "vera" else {}
    model = planned(tiny_model, adapter, **options)
    results = [
        updated(tiny_model, model, optimizer, place=tmp_path / str(composed), composed=composed)
        for composed in (False, True)
    ]
    alone, composed = results
    assert alone.keys() == composed.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(composed[name], tensor, atol=1e-6, rtol=0)
