"""Stage 3 with masters in pieces, and with the optimizer in host memory: the same numbers."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from one_rank import trainer
from packed_groups import pack_into, random_groups, with_columns

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.settings import DType
from rlpost.training.zero import deepspeed_engine as ds

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


@contextmanager
def stage_3(path, *, dtype: DType = DType.bfloat16, offload: bool = False):
    options = {"dtype": dtype, "max_grad_norm": 0.0}
    with trainer(path, zero_stage=3, offload_optimizer=offload, **options) as built:
        yield built


def update(built, step: int, *, poisoned: bool = False) -> dict[str, float]:
    first, *others = pack_into(*random_groups(seed=step), num_micro_batches=2).batches[0]
    if poisoned:
        nan_R = np.full_like(first.columns["advantages_R"], np.nan)
        first = with_columns(first, advantages_R=nan_R)
    batches = [first, *others]
    built.forward_backward(batches, OBJECTIVE)
    return built.optim_step(step)


def weights(built) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in built.served.tensors()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(two[n], t) for n, t in one.items())


def test_pieces_are_a_sixteenth_of_what_a_rank_holds_and_not_small():
    million = 2**20
    assert ds.piece_size(1024 * million, num_ranks=4) == 16 * million
    assert ds.piece_size(1024 * million + 1, num_ranks=4) == 16 * million + 1
    assert ds.piece_size(million, num_ranks=1) == ds.MIN_PIECE


@pytest.mark.parametrize("dtype", [DType.bfloat16, DType.float32])
def test_pieces_and_the_place_of_the_optimizer_change_no_number(
    tiny_model, tmp_path, monkeypatch, dtype
):
    with stage_3(tiny_model, dtype=dtype) as built:
        assert len(built.engine.optimizer.fp32_partitioned_groups_flat) == 1
        assert not built.engine.optimizer.offload_optimizer
        before = weights(built)
        update(built, 1)
        after_1 = weights(built)
        update(built, 2)
        after_2 = weights(built)
    assert not equal(before, after_1) and not equal(after_1, after_2)
    monkeypatch.setattr(ds, "MIN_PIECE", 1000)
    for offload in (False, True):
        with stage_3(tiny_model, dtype=dtype, offload=offload) as built:
            assert len(built.engine.optimizer.fp32_partitioned_groups_flat) > 3
            assert built.engine.optimizer.offload_optimizer == offload
            update(built, 1)
            assert equal(weights(built), after_1), offload
            built.begin_save(tmp_path / str(offload))
            built.finish_save()
            skipped = update(built, 2, poisoned=True)
            assert skipped["actor/skipped_update"] == 1
            assert equal(weights(built), after_1), offload
    monkeypatch.undo()
    for directory in tmp_path.iterdir():  # what was written in pieces is one again
        with stage_3(tiny_model, dtype=dtype) as built:
            built.load(directory)
            update(built, 2)
            assert equal(weights(built), after_2), directory
