"""One rank of tests/system/test_parts.py: each model once in parts and once as a whole.

    python parts_rank.py CASES.json RANK WORLD_SIZE PORTS.json RESULT.json CONTROL

CASES.json: ``[{"path", "role", "dtype", "checkpointing", "adapter", "start", "shifted"}..]``; with
``adapter``, the options of a new one and its ``kind``, it is trained on the base, into which the
adapter in ``start`` is merged first; with ``shifted`` the parts are read from one element before
them. Answers, for each case, which weights, masters and gradients are not equal bit for bit, and
the largest share of a tensor that this rank read of a file where it read in parts; or the error
that it ended with, after which no case may follow. CONTROL is not used.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from packed_groups import pack_into, random_groups, with_columns
from reshape_rank import OBJECTIVES

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.directory.weight_files import StoredTensor
from rlpost.training.adapters import adapters
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import DType, TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer, Rank
from rlpost.training.zero.deepspeed_weights import iter_weights

LOAD_HOLLOW, READ_PART = TrainedModel.load_hollow, StoredTensor.read_part
read = Counter()  # bytes, by where the tensor lies


def counting(self, start, stop):
    read[str(self.file), self.start, self.end] += (stop - start) * self.torch_dtype.itemsize
    return READ_PART(self, start, stop)


def shifted(self, start, stop):
    """Read one element before the own part, as if all before it had one more."""
    shift = int(start > 0)
    return READ_PART(self, start - shift, stop - shift)


def trained(case: dict, place: Rank, *, whole: bool) -> dict[str, torch.Tensor]:
    """What this rank holds after loading, and the weights after a step."""
    cfg = TrainerConfig(
        dtype=DType(case["dtype"]),
        threads=1,
        zero_stage=3,
        num_ranks=place.world_size,
        lr=1e-3,
        gradient_checkpointing=case.get("checkpointing", False),
    )
    path, role = case["path"], case["role"]
    model = (
        TrainedModel.policy(path, cfg, adapter=_adaptation(case))
        if role == "policy"
        else TrainedModel.critic(path, policy_path=path)
    )
    TrainedModel.load_hollow = (lambda self, **options: None) if whole else LOAD_HOLLOW
    trainer = DeepSpeedTrainer(cfg, model=model, place=place, seed=0)
    try:
        return dict(_found(trainer, role, place))
    finally:
        trainer.close()


def _adaptation(case: dict) -> Adaptation | None:
    if "adapter" not in case:
        return None
    options = dict(case["adapter"])
    config = adapters.get(options.pop("kind")).config(**options)
    base = ModelDirectory.read(Path(case["path"]))
    return plan_adaptation(config, start=case.get("start"), base=base, name=case["path"])


def _found(trainer: DeepSpeedTrainer, role: str, place: Rank):
    for name, parameter in trainer.module.named_parameters():
        mine = parameter.ds_tensor.clone()
        start = mine.numel() * place.rank
        yield f"{name} part", mine[: max(0, parameter.ds_numel - start)]  # the rest is padding
    for number, flat in enumerate(trainer.engine.optimizer.fp32_partitioned_groups_flat):
        yield f"master {number}", flat.detach().norm()
    yield from ((name, each.clone()) for name, each in iter_weights(trainer.module))
    yield from ((f"{name} buffer", each.clone()) for name, each in trainer.module.named_buffers())
    packed = pack_into(*random_groups(seed=1), num_ranks=place.world_size, num_micro_batches=1)
    (batch,) = packed.batches[place.rank]
    returns_R = batch.target_R.astype("float32") / 100
    batch = with_columns(batch, returns_R=returns_R, rollout_values_R=0 * returns_R)
    trainer.forward_backward([batch], OBJECTIVES[role])
    metrics = trainer.optim_step(1)
    yield "norm", torch.tensor([v for k, v in metrics.items() if k.endswith("/grad_norm")])
    yield from ((f"{name} after", each.clone()) for name, each in iter_weights(trainer.module))


def main() -> None:
    cases, rank, ranks, ports, result, _ = sys.argv[1:]
    place = {"rank": int(rank), "world_size": int(ranks), "master_address": "127.0.0.1"}
    numbers = iter(json.loads(Path(ports).read_text()))
    answers = []
    for case in json.loads(Path(cases).read_text()):
        read.clear()
        StoredTensor.read_part = shifted if case.get("shifted") else counting
        try:
            parts = trained(case, Rank(**place, master_port=next(numbers)), whole=False)
        except UserError as error:
            answers.append({"error": str(error)})
            break
        shares = [size / (end - start) for (_, start, end), size in read.items() if end > start]
        whole = trained(case, Rank(**place, master_port=next(numbers)), whole=True)
        differing = [n for n in whole if n not in parts or not torch.equal(whole[n], parts[n])]
        answers.append(
            {"differing": differing, "most": max(shares, default=0), "names": sorted(parts)}
        )
    Path(f"{result}.{rank}").write_text(json.dumps(answers))
    if int(rank) == 0:
        Path(result).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
