"""Adapters on several ranks against plain peft, for tests/system/parity_rank.py."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from packed_groups import load_plain, relative_difference
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model

from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.adapters.config import NoAdapterConfig
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig
from rlpost.training.zero.deepspeed_trainer import DeepSpeedTrainer
from rlpost.training.zero.deepspeed_weights import gathered

LINEAR = ["q_proj", "v_proj", "down_proj"]
UPDATES = 3
CONFIGS = {
    "lora": lambda: LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR),
    "adalora": lambda: AdaLoraConfig(
        init_r=4, target_r=2, tinit=0, tfinal=1, deltaT=1, total_step=UPDATES + 2,
        orth_reg_weight=0.5, lora_alpha=8, target_modules=LINEAR,
    ),
}  # fmt: skip
# Stages at which each kind trains.
CASES = [("lora", stage) for stage in (0, 1, 2, 3)] + [("adalora", stage) for stage in (0, 1, 2)]
Loss = Callable[[Any], torch.Tensor]  # of a plain model, over the whole optimizer batch


def start_from(path: str, kind: str, place: Path) -> Path:
    """Write an adapter of random values, of which none is zero."""
    torch.manual_seed(3)
    model = get_peft_model(load_plain(path), CONFIGS[kind]())
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(place)
    return place


def adapted(path: str, start: Path, cfg: TrainerConfig) -> TrainedModel:
    plan = plan_adaptation(
        NoAdapterConfig(), start=str(start), base=ModelDirectory.read(Path(path)), name=path
    )
    return TrainedModel.policy(path, cfg, adapter=plan)


def trainable(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix("base_model.model."), parameter


def updated(built: DeepSpeedTrainer, batches: Any, objective: Any) -> dict[str, torch.Tensor]:
    """The adapter after some updates; collective."""
    for step in range(1, UPDATES + 1):
        built.forward_backward(batches, objective)
        built.optim_step(step)
    own = dict(trainable(built.module.model))
    with gathered(list(own.values())):
        return {name: parameter.detach().clone() for name, parameter in own.items()}


def ranks_everywhere(built: DeepSpeedTrainer) -> list[dict[str, int]]:
    """AdaLoRA's ranks of the layers, as each process has them; collective."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, built.module.adapter.companion.ranks())
    return found


def updated_plainly(path: str, start: Path, loss_of: Loss, cfg: TrainerConfig) -> Any:
    """The same updates by plain peft and torch's AdamW, in one process."""
    model = PeftModel.from_pretrained(load_plain(path), start, is_trainable=True)
    ranks_move = model.peft_config["default"].peft_type == "ADALORA"
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=cfg.lr, weight_decay=cfg.weight_decay)
    for step in range(1, UPDATES + 1):
        loss = loss_of(model)
        if ranks_move:
            loss = loss + 0.5 * distance_from_orthonormal(model)
        loss.backward()
        optimizer.step()
        if ranks_move:
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return model


def distance_from_orthonormal(model: Any) -> torch.Tensor:
    """Mean Frobenius distance of A A^T and B^T B from the identity, of all layers."""
    found = []
    for name, parameter in trainable(model):
        if "lora_A" in name or "lora_B" in name:
            directions = parameter if "lora_A" in name else parameter.T
            gram = directions @ directions.T
            found.append(((gram - torch.eye(len(gram))) ** 2).sum().sqrt())
    return torch.stack(found).mean()


def difference(ours: dict[str, torch.Tensor], model: Any) -> float:
    return relative_difference(ours, {name: p.detach() for name, p in trainable(model)})
