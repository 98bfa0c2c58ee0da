"""AdaLoRA's ranks are moved as plain peft moves them, update for update."""

import copy

import pytest
import torch
from peft import AdaLoraConfig
from peft.tuners.adalora import AdaLoraModel
from torch import nn

from rlpost.training.adapters.adalora import AdaLoRAConfig, adalora
from rlpost.training.adapters.allocation import Allocation
from rlpost.training.adapters.registry import Setting

UPDATES, EVERY, SETTLED = 16, 4, 4
ENDS = UPDATES - SETTLED


def adapted(*, every=EVERY):
    """A net of two adapted layers whose importances move, and what it learns."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    config = AdaLoraConfig(
        init_r=4, target_r=2, tinit=1, tfinal=SETTLED, deltaT=every, total_step=UPDATES,
        lora_alpha=4, target_modules=["0", "2"], beta1=0.5, beta2=0.5,
    )  # fmt: skip
    tuner = AdaLoraModel(net, config, "default")
    inputs, wanted = torch.randn(UPDATES, 12, 6), torch.randn(UPDATES, 12, 5)
    return tuner, inputs, wanted


def own(tuner):
    return {n: p for n, p in tuner.model.named_parameters() if p.requires_grad}


def optimizer_of(tuner):
    return torch.optim.AdamW(own(tuner).values(), lr=0.05, weight_decay=0)


def learn(tuner, inputs, wanted, step):
    (tuner.model(inputs[step - 1]) - wanted[step - 1]).square().mean().backward()


def test_every_update_leaves_what_plain_peft_leaves():
    ours, inputs, wanted = adapted()
    plain = copy.deepcopy(ours)
    allocation = Allocation(ours.model, orthogonality=0)
    optimizers = optimizer_of(ours), optimizer_of(plain)
    came_back, dropped = False, {}
    for step in range(1, UPDATES + 1):
        for tuner, optimizer in zip((ours, plain), optimizers, strict=True):
            learn(tuner, inputs, wanted, step)
            optimizer.step()
        factors = allocation.after_step(step, applied=True)
        plain.update_and_allocate(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.no_grad():
            for name, factor in factors.items():  # masters are the weights themselves here
                own(ours)[name].mul_(factor)
        theirs = own(plain)
        for name, parameter in own(ours).items():
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-6, atol=1e-8)
        if step % EVERY == 0 and step < ENDS:
            before, dropped = dropped, {n: ~f.bool() for n, f in factors.items()}
            came_back |= any((gone & ~dropped[n]).any() for n, gone in before.items())
        elif dropped and step < ENDS:  # what was taken away learns on
            assert all((own(ours)[n][gone] != 0).all() for n, gone in dropped.items())
        elif step >= ENDS:
            assert sum(int((own(ours)[n] != 0).sum()) for n in factors) == 2 * 2
    assert came_back, "no direction came back, so the test shows nothing"


def test_the_last_allocation_happens_where_its_own_update_was_skipped():
    tuner, inputs, wanted = adapted(every=2 * UPDATES)  # so there is no allocation but the last
    allocation = Allocation(tuner.model, orthogonality=0)
    optimizer = optimizer_of(tuner)
    for step in range(1, ENDS + 1):
        learn(tuner, inputs, wanted, step)
        if applied := step < ENDS:
            optimizer.step()
        allocation.after_step(step, applied=applied)
        optimizer.zero_grad()
    assert sum(allocation.ranks().values()) == 2 * 2


@pytest.mark.parametrize("settled", [0.3, 0.95])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_ranks_are_taken_away_before_the_last_update(settled, steps):
    cfg = AdaLoRAConfig(rank=2, initial_rank=4, warmup=0.0, settled=settled)
    peft = adalora(cfg).peft(Setting(task_type="CAUSAL_LM", total_steps=steps))
    assert 2 <= peft.total_step - peft.tfinal < peft.total_step
