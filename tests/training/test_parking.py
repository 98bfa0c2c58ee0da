"""A parked model costs no memory and comes back bit for bit, under every ZeRO stage."""

import errno
import gc
import os
import tempfile

import numpy as np
import psutil
import pytest
import torch
from one_rank import trainer
from packed_groups import pack_into, random_groups
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from rlpost.algorithms.diagnostics import merge
from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.scorer import FrozenScorer
from rlpost.training.parking import FileShelf, HostShelf, Parking, side_by_side
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer

CPU = torch.device("cpu")
OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


def two_layers(width: int = 256) -> nn.Module:
    """Weights that are views into one flat buffer, as ZeRO's are."""
    model = nn.Sequential(nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False))
    flat = torch.randn(2 * width * width)
    for index, layer in enumerate(model):
        part = flat[index * width * width : (index + 1) * width * width]
        layer.weight.data = part.view(width, width)
    return model


def test_bytes_leave_and_come_back_and_views_stay_views():
    model = two_layers()
    before = [p.detach().clone() for p in model.parameters()]
    parking = Parking(model, device=CPU)
    assert parking.park() == 2 * 256 * 256 * 4
    assert all(p.untyped_storage().nbytes() == 0 for p in model.parameters())
    assert parking.park() == 2 * 256 * 256 * 4  # it rests already
    parking.wake()
    parking.wake()
    for found, expected in zip(model.parameters(), before, strict=True):
        assert torch.equal(found, expected)
    first, second = model.parameters()
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def test_gradients_and_moments_leave_too():
    model = two_layers()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    parking = Parking(model, optimizer, device=CPU)
    assert parking.park() == 4 * 2 * 256 * 256 * 4  # weights, gradients, two moments
    parking.wake()
    assert Parking(model, device=CPU).park() == 2 * 2 * 256 * 256 * 4


def test_what_changed_in_between_is_what_comes_back():
    model, frozen = two_layers(), two_layers()
    for each, is_frozen in ((model, False), (frozen, True)):
        parking = Parking(each, device=CPU, frozen=is_frozen)
        before = each[0].weight.detach().clone()
        for _ in range(2):
            parking.park()
            parking.wake()
            with torch.no_grad():
                each[0].weight.add_(1)
        # Of a frozen one only the first copy exists: the addition of the first round is gone.
        assert torch.allclose(each[0].weight - before, torch.tensor(1.0 if is_frozen else 2.0))


def test_the_process_gets_smaller():
    model = two_layers(4096)  # 134 MB
    process, parking = psutil.Process(), Parking(model, device=CPU)
    gc.collect()  # what other tests left must not go meanwhile
    before = process.memory_info().rss
    parking.park()
    parked = process.memory_info().rss
    assert before - parked > 100e6
    parking.wake()
    assert process.memory_info().rss - parked > 100e6


def test_without_room_the_model_stays_and_the_room_is_given_back(caplog):
    model = two_layers()
    before = model[0].weight.detach().clone()
    parking = Parking(model, device=CPU)
    assert isinstance(parking._shelf, FileShelf)
    with tempfile.TemporaryFile(buffering=0) as file:
        parking._shelf._file = small = SmallFile(file, room=1 << 18)
        assert parking.park() == 0
        parking.wake()
        assert small.written > 0 and os.fstat(file.fileno()).st_size == 0
    assert "no room" in caplog.text
    assert torch.equal(model[0].weight, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here memory can be pinned")
def test_what_cannot_be_pinned_stays(caplog):
    model = two_layers()
    before = model[0].weight.detach().clone()
    parking = Parking(model, device=CPU)
    parking._shelf = HostShelf()
    assert parking.park() == 0
    parking.wake()
    assert "no room to move it: a model that waits needs 0.00 GiB of pinned" in caplog.text
    assert "cluster.offload_idle=false" in caplog.text
    assert torch.equal(model[0].weight, before)


class SmallFile:
    """A file on a disk that is nearly full."""

    def __init__(self, file, *, room: int) -> None:
        self._file, self._room, self.written = file, room, 0
        self.seek, self.truncate = file.seek, file.truncate

    def write(self, data: memoryview) -> int:
        if self.written >= self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written += self._file.write(data[: self._room])
        return self._room


def test_what_its_owner_replaces_meanwhile_does_not_live_on():
    model = two_layers()
    parking = Parking(model, device=CPU)
    parking.park()
    parking.wake()
    replaced = StorageWeakRef(model[0].weight.untyped_storage())
    assert not replaced.expired()
    for layer in model:
        layer.weight.data = torch.empty(0)
    assert replaced.expired()
    assert os.fstat(parking._shelf._file.fileno()).st_size == 0


def test_blocks_lie_end_to_end_over_pieces():
    pieces = [torch.zeros(10, dtype=torch.uint8) for _ in range(3)]
    blocks = [torch.arange(n, dtype=torch.uint8) + 1 for n in (4, 13, 10)]
    for piece, part in side_by_side(pieces, blocks):
        assert len(piece) == len(part)
        piece.copy_(part)
    assert torch.cat(pieces).tolist() == [*torch.cat(blocks).tolist(), 0, 0, 0]
    copies = [torch.zeros_like(block) for block in blocks]
    for piece, part in side_by_side(pieces, copies):
        part.copy_(piece)
    assert all(torch.equal(a, b) for a, b in zip(copies, blocks, strict=True))


def train(built: DeepSpeedTrainer, directory, *, rests: bool) -> tuple[list[float], list]:
    """Two updates, a checkpoint and log-probs; returns the norms and what came out."""
    norms = []
    batches = pack_into(*random_groups(), num_micro_batches=2).batches[0]
    if rests:
        built.sleep()
    for step in (1, 2):
        tally = built.forward_backward(batches, OBJECTIVE)
        metrics = merge([tally]).metrics() | built.optim_step(step)
        norms.append(metrics["actor/grad_norm"])
        if rests:
            built.probe_logprobs([[1, 2, 3, 4]])  # ZeRO-3 may keep what this gathers
            # Adam's moments alone, but for the smallest; weights of stage 0 may lie in the file.
            # At most moments, masters and weights: what gradients need is not kept.
            moved = built.sleep() / built.num_parameters
            assert 0.95 * 8 < moved < 1.05 * (8 + 4 + built.dtype.itemsize)
    built.begin_save(directory)
    if rests:
        built.sleep()  # while the copy is still being written
    built.finish_save()
    return norms, built.score(batches)


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        (0, DType.float32),
        (1, DType.bfloat16),
        (2, DType.float32),
        (2, DType.bfloat16),
        (3, DType.bfloat16),
    ],
)
def test_a_trainer_that_rests_computes_the_same(tiny_model, tmp_path, stage, dtype):
    results = []
    for rests in (False, True):
        with trainer(tiny_model, zero_stage=stage, dtype=dtype) as built:
            results.append(train(built, tmp_path / str(rests), rests=rests))
    (norms, logprobs), (rested_norms, rested_logprobs) = results
    assert norms == rested_norms and norms[0] != norms[1]
    for ours, theirs in zip(rested_logprobs, logprobs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    files = sorted(path.name for path in (tmp_path / "True").glob("*.safetensors"))
    assert files
    for name in files:
        ours, theirs = ((tmp_path / part / name).read_bytes() for part in ("True", "False"))
        assert ours == theirs, name


def test_a_damaged_shelf_is_noticed(tiny_model):
    """Negative control: what is computed afterwards does come from the shelf."""
    cfg = TrainerConfig(dtype=DType.bfloat16, threads=1)  # in the file's own it would be mapped
    scorer = FrozenScorer(cfg, model=TrainedModel.policy(str(tiny_model), cfg))
    batches = pack_into(*random_groups(), num_micro_batches=1).batches[0]
    before = scorer.score(batches, 1.0)[0]
    assert scorer.sleep() > 0
    np.testing.assert_array_equal(scorer.score(batches, 1.0)[0], before)
    scorer.sleep()
    file = scorer._parking._shelf._file
    file.seek(0)
    file.write(b"\0" * (1 << 16))
    assert np.abs(scorer.score(batches, 1.0)[0] - before).max() > 0.1
