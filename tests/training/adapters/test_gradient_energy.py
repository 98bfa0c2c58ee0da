"""Measurements of an adapter in training: what they say, and that they change nothing."""

import numpy as np
import pytest
import torch
from one_rank import trainer
from packed_groups import load_plain, pack_into, plain_scores, random_groups
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer, LoraModel
from peft_adapters import planned
from torch import nn

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.control.learning_signs import signs_of
from rlpost.training.adapters.gradient_energy import measure_capacity

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())
SOME = ["q_proj", "up_proj"]


def batches():
    return pack_into(*random_groups(), num_micro_batches=2).batches[0]


def trained(path, steps, *, place=None, **options):
    """Rows of metrics and the weights of a run with drop-out and recomputed activations."""
    model = planned(path, "lora", rank=2, target_modules=SOME, dropout=0.1, **options)
    with trainer(path, model=model, steps=10, gradient_checkpointing=True) as built:
        rows = []
        for step in range(1, steps + 1):
            built.forward_backward(batches(), OBJECTIVE)
            rows.append(built.optim_step(step))
        if place is not None:
            built.export(place)
        return rows, {name: tensor.clone() for name, tensor in built.served.tensors()}


def of_adapter(row):
    return {name: value for name, value in row.items() if name.startswith("adapter/")}


def test_a_run_has_the_same_bits_with_and_without_measurements(tiny_model):
    plain, expected = trained(tiny_model, 4)
    rows, weights = trained(tiny_model, 4, diagnose_every=2)
    assert [bool(of_adapter(row)) for row in rows] == [False, True, False, True]
    assert not any(of_adapter(row) for row in plain)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    for name in ("actor/grad_norm", "actor/lr"):
        assert [row[name] for row in rows] == [row[name] for row in plain]


def by_full_gradients(path, directory, batch) -> dict[str, float]:
    """The same shares from gradients of every weight of a plain model of peft."""
    model = PeftModel.from_pretrained(load_plain(path), directory).requires_grad_(True)
    loss = torch.from_numpy(batch.columns["weight_R"] * -batch.columns["advantages_R"])
    (loss * plain_scores(model, batch)[0]).sum().backward()
    inside = outside = bare = others = 0.0
    low_rank = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for layer in low_rank:
        gradient = layer.get_base_layer().weight.grad
        a, b = (getattr(layer, n)["default"].weight.detach() for n in ("lora_A", "lora_B"))
        left = torch.eye(len(b)) - b @ torch.linalg.pinv(b)
        right = torch.eye(a.shape[1]) - torch.linalg.pinv(a) @ a
        inside += float(gradient.square().sum())
        outside += float((left @ gradient @ right).square().sum())
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        own = "lora" not in name and not name.endswith("base_layer")
        if isinstance(module, nn.Linear) and module is not head and own:
            bare += float(module.weight.grad.square().sum())
    for name, parameter in model.named_parameters():
        if "norm" in name or "embed" in name or name.endswith(".bias"):
            others += float(parameter.grad.square().sum())
    linear = inside + bare
    return {
        "adapter/gradient_outside": outside / inside,
        "adapter/gradient_unadapted": bare / linear,
        "adapter/gradient_other_weights": others / (linear + others),
    }


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shares_are_those_of_the_gradients_of_every_weight(tiny_model, tmp_path, checkpointing):
    model = planned(tiny_model, "lora", rank=2, target_modules=SOME, diagnose_every=3)
    options = {"steps": 10, "lr": 1e-2, "gradient_checkpointing": checkpointing}
    with trainer(tiny_model, model=model, **options) as built:
        for step in (1, 2, 3):
            if step == 3:
                built.export(tmp_path)
            built.forward_backward(batches(), OBJECTIVE)
            row = built.optim_step(step)
    batch = max(batches(), key=lambda each: len(each.blocks))
    expected = by_full_gradients(tiny_model, tmp_path, batch)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert 0 < row["adapter/gradient_outside"] < 1 > row["adapter/gradient_unadapted"] > 0
    assert 0 < row["adapter/update_rank/q_proj"] <= 2.0001
    assert -1 <= row["adapter/gradient_agreement"] <= 1


class Planted(nn.Module):
    """A frozen layer beside which a change of rank 8 is to be learned from rows without noise."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(256, 32)
        self.layer = nn.Linear(32, 24, bias=False)
        self.wanted = (
            torch.linalg.qr(torch.randn(24, 8)).Q @ torch.linalg.qr(torch.randn(32, 8)).Q.T
            + self.layer.weight.detach()
        )
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"])
        self.tuner = LoraModel(self, config, adapter_name="default")

    @property
    def model(self):
        return self

    def get_output_embeddings(self):
        return None

    def loss(self):
        read = self.embed(torch.arange(256))
        return (self.layer(read) - read @ self.wanted.T).square().sum() / 256


@pytest.mark.parametrize(("rank", "advised"), [(1, True), (8, False)])
def test_a_change_of_rank_8_asks_for_a_higher_rank_than_1(rank, advised):
    planted = Planted(rank)
    weights = [each for each in planted.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.02)
    rows = []
    for step in range(1, 202):
        if step % 100 == 1:
            in_first = torch.from_numpy(np.arange(256) % 2 == 0)
            found = measure_capacity(planted, loss=planted.loss, in_first_T=in_first)
            rows.append({"step": step, "sft/loss": 1.0, "sft/heldout_loss": 1.0, **found})
        optimizer.zero_grad()
        planted.loss().backward()
        optimizer.step()
    assert "adapter/update_rank" not in rows[0]  # fresh: no advice, whatever is outside
    assert rows[0]["adapter/gradient_outside"] > 0.5 and not signs_of(rows[:1] * 2)
    said = [str(sign) for sign in signs_of(rows)]
    assert bool(said) is advised, (said, rows[-1])
    assert all("Raise the rank" in each for each in said)
