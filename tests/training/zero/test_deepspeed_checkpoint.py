"""The files of a trained role: who writes what, what a reader refuses, what a full disk does.

Several ranks and other ZeRO stages are in tests/system/test_checkpoint_reshape.py, bit-equal
continuations in test_deepspeed_trainer.py.
"""

import json
import pickle
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from one_rank import trainer
from packed_groups import pack_into, random_groups
from safetensors import safe_open
from safetensors.torch import save_file

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.checkpoint.space import CheckpointWriteError
from rlpost.errors import DataError, UserError
from rlpost.models.tiny import build_tiny_llama
from rlpost.training.settings import DType
from rlpost.training.zero import deepspeed_saver
from rlpost.training.zero.deepspeed_checkpoint import (
    Snapshot,
    StepperProgress,
    assign_owners,
    write_snapshot,
)

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


def update(built, step: int) -> dict[str, float]:
    batches = pack_into(*random_groups(seed=step)).batches[0]
    built.forward_backward(batches, OBJECTIVE)
    return built.optim_step(step)


def save(built, directory) -> None:
    built.begin_save(directory)
    built.finish_save()


def weights(built) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in built.served.tensors()}


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()


def snapshot(rank: int = 0, **tensors: torch.Tensor) -> Snapshot:
    return Snapshot(rank=rank, tensors=tensors, random={}, meta="{}", companion={})


# -- files ----------------------------------------------------------------------------------


def test_ranks_share_the_writing_evenly():
    sizes = {"embedding": 50, "a": 30, "b": 21, "c": 20, "d": 9}
    owners = assign_owners(sizes, num_ranks=2)
    # 50 | 30, then b to the second (51), c to the first (70), d to the second.
    assert owners == {"embedding": 0, "a": 1, "b": 1, "c": 0, "d": 1}
    assert set(assign_owners(sizes, num_ranks=1).values()) == {0}
    assert len(set(assign_owners(sizes, num_ranks=5).values())) == 5


@pytest.mark.parametrize(
    "blocked", ["state_000_000.safetensors", "random_000.json", "trainer.json"]
)
def test_any_file_that_cannot_be_written_is_a_write_error(tmp_path, blocked):
    (tmp_path / blocked / "in the way").mkdir(parents=True)
    with pytest.raises(CheckpointWriteError, match="writing the checkpoint"):
        write_snapshot(snapshot(a=torch.zeros(4)), tmp_path)


# -- one real rank --------------------------------------------------------------------------


def test_the_files_hold_the_masters_and_moments_of_the_moment_of_saving(tiny_model, tmp_path):
    with trainer(tiny_model) as built:
        update(built, 1)
        update(built, 2)
        expected = weights(built)
        built.begin_save(tmp_path)
        update(built, 3)  # the copy must not follow
        later = weights(built)
        built.finish_save()
    meta = json.loads((tmp_path / "trainer.json").read_text())
    assert (meta["num_ranks"], meta["updates"], meta["progress"]["step_id"]) == (1, 2, 2)
    (path,) = tmp_path.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        assert len(file.keys()) == 3 * len(expected)
        for name, weight in expected.items():
            master = file.get_tensor(f"model.{name}.master")
            assert torch.equal(master, weight), name
            assert not torch.equal(master, later[name]), name
            assert file.get_tensor(f"model.{name}.exp_avg").any(), name
            assert (file.get_tensor(f"model.{name}.exp_avg_sq") >= 0).all(), name


@pytest.mark.parametrize("stage", [0, 2, 3])  # in float32 stage 1 has the engine of stage 2
def test_before_the_first_step_there_are_no_moments(tiny_model, tmp_path, stage):
    with trainer(tiny_model, zero_stage=stage) as built:
        save(built, tmp_path / "new")
        update(built, 1)
        expected = weights(built)
        # Also back into an engine that has moments by now: they must not survive.
        built.load(tmp_path / "new")
        save(built, tmp_path / "again")
        update(built, 1)
        assert all(torch.equal(expected[n], t) for n, t in weights(built).items())
    for name in ("new", "again"):
        assert json.loads((tmp_path / name / "trainer.json").read_text())["updates"] == 0
        (path,) = (tmp_path / name).glob("*.safetensors")
        with safe_open(path, framework="pt") as file:
            assert all(key.endswith(".master") for key in file.keys())  # noqa: SIM118


def test_random_states_return_and_start_anew_for_other_ranks(tiny_model, tmp_path):
    with trainer(tiny_model) as built:
        update(built, 1)
        save(built, tmp_path)
        expected = draws()
        assert draws() != expected
        built.load(tmp_path)
        assert draws() == expected
        meta = json.loads((tmp_path / "trainer.json").read_text())
        (tmp_path / "trainer.json").write_text(json.dumps(meta | {"num_ranks": 2}))
        built.load(tmp_path)
        other = draws()
        assert other != expected
        built.load(tmp_path)
        assert draws() == other
    with trainer(tiny_model, seed=1) as built:
        built.load(tmp_path)
        assert draws() != other


@pytest.mark.parametrize(("before", "after"), [("bfloat16", "float32"), ("float32", "bfloat16")])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_dtype_may_change(tiny_model, tmp_path, before, after, stage):
    with trainer(tiny_model, dtype=DType(before), zero_stage=stage) as built:
        update(built, 1)
        save(built, tmp_path / "before")
    with trainer(tiny_model, dtype=DType(after), zero_stage=stage) as built:
        built.load(tmp_path / "before")
        found = weights(built)
        save(built, tmp_path / "after")
        assert update(built, 2)["actor/skipped_update"] == 0
    (one,), (two,) = ((tmp_path / name).glob("*.safetensors") for name in ("before", "after"))
    assert one.read_bytes() == two.read_bytes()
    with safe_open(one, framework="pt") as file:
        masters = {n: file.get_tensor(f"model.{n}.master") for n in found}
    assert all(torch.equal(masters[n].to(t.dtype), t) for n, t in found.items())
    assert all(t.dtype is getattr(torch, after) for t in found.values())


def test_a_checkpoint_from_before_there_were_other_optimizers_is_read(tiny_model, tmp_path):
    with trainer(tiny_model) as built:
        update(built, 1)
        save(built, tmp_path)
        update(built, 2)
        expected = weights(built)
        meta = json.loads((tmp_path / "trainer.json").read_text())
        meta["adam_step"] = meta.pop("updates")
        assert meta.pop("optimizer") == "adamw"
        (tmp_path / "trainer.json").write_text(json.dumps(meta))
        built.load(tmp_path)
        update(built, 2)
        assert all(torch.equal(expected[n], t) for n, t in weights(built).items())


def test_half_a_state_is_refused_before_anything_changes(tiny_model, tmp_path):
    with trainer(tiny_model) as built:
        update(built, 1)
        save(built, tmp_path)
        update(built, 2)
        before = weights(built)
        with pytest.raises(DataError, match=r"trainer\.json: missing"):
            built.load(tmp_path / "empty")
        (tmp_path / "random_000.json").rename(tmp_path / "elsewhere")
        with pytest.raises(DataError, match=r"random_000\.json: missing"):
            built.load(tmp_path)
        (tmp_path / "elsewhere").rename(tmp_path / "random_000.json")
        (path,) = tmp_path.glob("*.safetensors")
        with safe_open(path, framework="pt") as file:
            kept = {k: file.get_tensor(k) for k in list(file.keys())[1:]}
        save_file(kept, path)
        with pytest.raises(DataError, match="lacks 'model"):
            built.load(tmp_path)
        (tmp_path / "trainer.json").write_text('{"shape": {}, "progress": {}}')
        with pytest.raises(DataError, match=r"trainer\.json: not of format 3"):
            built.load(tmp_path)
        assert all(torch.equal(before[n], t) for n, t in weights(built).items())


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(tiny_model, tmp_path):
    touched = tmp_path / "touched"
    with trainer(tiny_model) as built:
        save(built, tmp_path / "state")
        for file in sorted((tmp_path / "state").iterdir()):
            honest = file.read_bytes()
            for write in (pickle.dump, torch.save):
                with file.open("wb") as stream:
                    write(Touch(touched), stream)
                with pytest.raises(DataError, match=re.escape(file.name)):
                    built.load(tmp_path / "state")
                assert not touched.exists(), file.name
            file.write_bytes(honest)
        torch.save(Touch(touched), tmp_path / "hostile")
        torch.load(tmp_path / "hostile", weights_only=False)  # negative control
        assert touched.exists()


def test_another_model_is_refused(tiny_model, tmp_path):
    with trainer(build_tiny_llama(tmp_path / "wide", hidden=128)) as built:
        save(built, tmp_path / "state")
    with (
        trainer(tiny_model) as built,
        pytest.raises(UserError, match="resume with the model it was trained from"),
    ):
        built.load(tmp_path / "state")


def test_a_disk_that_refuses_costs_the_checkpoint_and_nothing_else(tiny_model, tmp_path):
    (tmp_path / "file").write_text("in the way of a directory")
    with trainer(tiny_model) as built:
        update(built, 1)
        built.begin_save(tmp_path / "file")
        update(built, 2)
        with pytest.raises(CheckpointWriteError, match="writing the checkpoint"):
            built.finish_save()
        update(built, 3)
        after = weights(built)
        save(built, tmp_path / "state")
    with trainer(tiny_model) as built:
        for step in (1, 2, 3):
            update(built, step)
        assert all(torch.equal(after[n], t) for n, t in weights(built).items())
        built.load(tmp_path / "state")
        assert all(torch.equal(after[n], t) for n, t in weights(built).items())


def test_training_goes_on_while_a_slow_disk_writes(tiny_model, tmp_path, monkeypatch):
    may_write = threading.Event()

    def slow(snapshot: Snapshot, directory) -> None:
        assert may_write.wait(60)
        write_snapshot(snapshot, directory)

    monkeypatch.setattr(deepspeed_saver, "write_snapshot", slow)
    with trainer(tiny_model) as built:
        update(built, 1)
        built.begin_save(tmp_path)
        update(built, 2)
        with pytest.raises(AssertionError, match="finish_save must end"):
            built.begin_save(tmp_path)
        assert not list(tmp_path.iterdir())
        may_write.set()
        built.finish_save()
        assert (tmp_path / "trainer.json").is_file()
        with pytest.raises(AssertionError, match="begin_save comes first"):
            built.finish_save()


def test_gradients_that_wait_are_neither_saved_nor_loaded_over(tiny_model, tmp_path):
    with trainer(tiny_model) as built:
        update(built, 1)
        save(built, tmp_path)
        batches = pack_into(*random_groups()).batches[0]
        built.forward_backward(batches, OBJECTIVE)
        with pytest.raises(AssertionError, match="optim_step first"):
            built.begin_save(tmp_path)
        with pytest.raises(AssertionError, match="would join"):
            built.load(tmp_path)


def test_progress_is_what_json_returns():
    progress = StepperProgress(step_id=3, step_result={"actor/lr": 1e-6}, nonfinite_in_row=1)
    assert StepperProgress(**json.loads(json.dumps(vars(progress)))) == progress
