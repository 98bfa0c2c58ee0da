"""Nothing in a micro-batch makes the host wait for the device, whatever is trained."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from no_synchronisation import NoSynchronisation
from packed_groups import load_policy
from peft_adapters import planned

from rlpost.algorithms.corrections import corrections
from rlpost.algorithms.critic_loss import CriticLossConfig, CriticObjective
from rlpost.algorithms.diagnostics import Tally
from rlpost.algorithms.distill import DivergenceConfig
from rlpost.algorithms.distill.objective import DistillObjective
from rlpost.algorithms.distill.top_tokens import IDS, LOGS
from rlpost.algorithms.kl import KLConfig, KLForm
from rlpost.algorithms.loss import Outputs
from rlpost.algorithms.losses import ClipConfig, losses
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.algorithms.preference import PreferenceObjective, preference_losses
from rlpost.algorithms.preference.inputs import JudgedInputs
from rlpost.algorithms.reward.losses import reward_losses
from rlpost.algorithms.reward.objective import RewardObjective, StepObjective
from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.algorithms.supervised.losses import losses as supervised_losses
from rlpost.training.model.divergence_head import DivergenceHead
from rlpost.training.model.heads import LogprobHead
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.noise import neftune_columns
from rlpost.training.model.packed_model import ModelInputs, PackedModel, loss_batch
from rlpost.training.model.sequence_parallel import SequenceGroup
from rlpost.training.packing.batch import MicroBatch
from rlpost.training.packing.pack import one_batch
from rlpost.training.packing.units import Item, Unit

CPU = torch.device("cpu")
OPTIONS = {"clip_cov": {"fraction": 0.1, "covariance_low": 0.1}, "kl_cov": {"fraction": 0.1}}


def objectives():
    """Every registered objective, by name, and how many items its units have."""
    kl = KLConfig(coefficient=0.1, form=KLForm.k3)
    for each in losses:
        config = each.config(**OPTIONS.get(each.name, {}))
        yield f"policy {each.name}", PolicyObjective(loss=config, kl=kl, entropy_coefficient=0.1), 1
    for each in corrections:
        stages = {each.name: each.config()}
        objective = PolicyObjective(loss=ClipConfig(), kl=kl, corrections=stages)
        yield f"correction {each.name}", objective, 1
    yield "critic", CriticObjective(loss=CriticLossConfig()), 1
    yield "distill", DistillObjective(metrics="distill"), 1
    for each in supervised_losses:
        yield f"supervised {each.name}", LikelihoodObjective(loss=each.config()), 1
    for each in preference_losses:
        size = 1 if each.config.inputs is JudgedInputs else 2
        yield f"preference {each.name}", PreferenceObjective(loss=each.config()), size
    for kind, objective in {"bradley_terry": RewardObjective, "step": StepObjective}.items():
        size = 2 if objective is RewardObjective else 1
        yield f"reward {kind}", objective(loss=reward_losses.get(kind).config()), size


CASES = {name: (objective, size) for name, objective, size in objectives()}
assert len(list(reward_losses)) == sum(name.startswith("reward") for name in CASES)


def batch_for(objective, *, size: int) -> MicroBatch:
    """Units of ``size`` responses with every column that the objective asks for."""
    rng = np.random.default_rng(0)
    alone = isinstance(objective, RewardObjective)  # it reads a response's last token only
    units, number = [], 0
    for p in range(3):
        lengths = rng.integers(2, 5, size).tolist()
        items = []
        for length in lengths:
            scored = np.ones(length, dtype=bool)
            scored[: length - 1] &= not alone
            ids = tuple(rng.integers(0, 256, length).tolist())
            items.append(Item(number=number, ids=ids, scored=scored))
            number += 1
        units.append(Unit(prompt=(1, 2 + p), items=tuple(items)))
    batch = one_batch(units)
    num = {"R": len(batch.token_R), "U": len(units)}
    columns = {
        name: rng.random(num[name[-1]]).astype(np.float32) - 0.5 * ("logprobs" in name)
        for name in objective.columns
    }
    if "selected_R" in columns:
        columns["selected_R"] = columns["selected_R"] > 0.5
    return replace(batch, columns=columns)


def outputs_of(model, inputs) -> Outputs:
    """What a policy says, and what a head beside a teacher would say of the same tokens."""
    outputs = Outputs.of(model(inputs))
    return replace(
        outputs, divergence_R=outputs.scores_R.square(), agrees_R=outputs.scores_R.detach() > -5.5
    )


def learn(model, batch, objective) -> Tally:
    """Learn from one micro-batch as a rank does."""
    tally, inputs = Tally(), ModelInputs.of(batch, device=CPU, learning=True)
    columns = loss_batch(batch, device=CPU)
    result = objective(outputs_of(model, inputs), columns)
    tally.add(result.diagnostics_R, counted_R=columns.counted_R)
    tally.add(result.diagnostics_U, counted_R=columns.counted_U)
    total = result.total(columns)
    tally.add_total("loss", total)
    total.backward()
    return tally


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(tiny_model)


@pytest.mark.parametrize("name", CASES)
def test_a_micro_batch_reads_no_values(name, policy):
    objective, size = CASES[name]
    batch = batch_for(objective, size=size)
    with NoSynchronisation() as mode:
        tally = learn(policy, batch, objective)
    assert mode.num_operations > 100 and tally.metrics()["loss"] != 0


def test_noise_and_places_in_front_read_no_values(policy):
    objective = CASES["supervised nll"][0]
    batch = batch_for(objective, size=1)
    noise = neftune_columns(["a", "b", "c"], alpha=5.0, seed=0, step=1)
    batch = replace(batch, columns={**batch.columns, **noise})
    with NoSynchronisation():
        learn(policy, batch, objective)
        moved, places_T = ModelInputs.of(batch, device=CPU, learning=True).behind(2)
    assert places_T.tolist() == [0, 1, *(moved.blocks[1].prompt[0] + i for i in range(2))] + [
        moved.blocks[2].prompt[0] + i for i in range(2)
    ]


@pytest.fixture
def alone() -> Iterator[SequenceGroup]:
    """A group of one rank, whose exchanges are real."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield SequenceGroup(process_group=dist.group.WORLD, rank=0, size=1)
    dist.destroy_process_group()


def test_a_divided_micro_batch_reads_no_values(policy, alone):
    objective, size = CASES["policy clip"]
    batch = batch_for(objective, size=size)
    expected = learn(policy, batch, objective).metrics()["loss"]
    policy.group = alone
    with NoSynchronisation() as mode:
        tally = learn(policy, batch, objective)
    policy.group = None
    assert mode.num_operations > 100 and tally.metrics()["loss"] == pytest.approx(expected)
    with NoSynchronisation():
        for rank in range(3):
            group = SequenceGroup(process_group=None, rank=rank, size=3)
            for reads_before in (False, True):
                ModelInputs.of(batch, device=CPU).divided(group, reads_before=reads_before)


def test_virtual_tokens_read_no_values(tiny_model):
    batch = batch_for(CASES["supervised nll"][0], size=1)
    module = planned(tiny_model, "prompt_tuning", num_virtual_tokens=3).load(dtype=torch.float32)
    with NoSynchronisation():
        learn(module, batch, CASES["supervised nll"][0])
    assert module.adapter.virtual.weight_NE.grad.abs().sum() > 0


def test_a_value_head_reads_no_values(tiny_reward):
    module = TrainedModel.critic(str(tiny_reward), policy_path=str(tiny_reward)).load(
        dtype=torch.float32
    )
    objective, size = CASES["critic"]
    with NoSynchronisation():
        learn(module, batch_for(objective, size=size), objective)


@pytest.mark.parametrize("stored", [False, True])
def test_a_teacher_reads_no_values(stored, policy, tiny_model):
    head = DivergenceHead(own=LogprobHead(chunk=4), divergence=DivergenceConfig(), vocabulary=256)
    student = PackedModel(load_policy(tiny_model).model, head=head)
    objective, size = CASES["distill"]
    batch = batch_for(objective, size=size)
    if stored:
        num = len(batch.token_R)
        logs = np.full((num, 3), -np.log(3), np.float32)
        ids = np.tile(np.arange(2), (num, 1))
        batch = replace(batch, columns={**batch.columns, IDS: ids, LOGS: logs})
    else:
        student.frozen = (policy,)
    columns = loss_batch(batch, device=CPU)
    with NoSynchronisation():
        outputs = Outputs.of(student(ModelInputs.of(batch, device=CPU)))
        objective(outputs, columns).total(columns).backward()
    assert outputs.divergence_R is not None


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: float(x.max()) > 0,
        lambda x: bool((x > 0).any()),
        lambda x: x.nonzero(),
        lambda x: torch.repeat_interleave(x, (x > 0).long()),
        lambda x: x.masked_select(x > 0),
    ],
)
def test_what_reads_values_is_seen(reads):
    values = torch.arange(-2.0, 3.0)
    with NoSynchronisation(), pytest.raises(AssertionError, match="reads"):
        reads(values)
