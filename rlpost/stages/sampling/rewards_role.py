"""The reward models of a run: what is asked of them, and their role.

Owns the checks and the role. Refuses to own what a reward model is (training/reward/) and its
actors (cluster/reward.py).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rlpost.cluster.reward import reward_name, reward_slots, spawn_reward
from rlpost.cluster.session import Device
from rlpost.control.placement import ActorSpec
from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.footprint import Footprint, in_turn
from rlpost.models.locate import locate_model
from rlpost.models.shape import model_shape
from rlpost.rollout.vllm.memory import classifier_footprint
from rlpost.stages.reference_role import require_own_gpus
from rlpost.stages.roles import Role, Workload, counted
from rlpost.training.memory import frozen_footprint
from rlpost.training.model.rehearsal import rehearse
from rlpost.training.precision import resolve_dtype
from rlpost.training.reward.scorer import check_reward_model
from rlpost.training.reward.settings import RewardEngine, RewardModelConfig


def check_reward_models(models: Mapping[str, RewardModelConfig]) -> dict[str, str]:
    """Locate and check reward models; returns the path of each.

    Raises:
        UserError: one is no reward model, or cannot be read.
    """
    paths = {}
    for name, reward in models.items():
        field = f"reward_models.{name}.path"
        path = locate_model(reward.path, field=field)
        directory = ModelDirectory.read(path, field=field, kind=ModelKind.reward)
        directory.tokenizer()
        check_reward_model(path, reward, field=field)
        if reward.zero_stage == 3:
            _check_division(directory, name=name, field=field)
        paths[name] = path
    return paths


def _check_division(directory: ModelDirectory, *, name: str, field: str) -> None:
    """Raises UserError: it is none that is loaded in parts, which are those that can be trained."""
    try:
        rehearse(directory.shell(), field=field)
    except UserError as error:
        raise UserError(
            f"reward_models.{name}.zero_stage=3 divides models that could be trained here: "
            f"{error}; or leave it out"
        ) from error


def rewards_role(cfg: Any, paths: Mapping[str, str], *, policy_path: str, device: Device) -> Role:
    """Return the models that judge, each in a process of its own or divided among its ranks.

    Args:
        cfg: options of a stage that samples, such as ``RLConfig``.
        paths: of each of ``cfg.reward_models``.
        policy_path: whose tokens they are given.
        device: what they run on.

    Raises:
        UserError: two ranks that divide a model would share a GPU.
    """
    gpus = int(device is Device.cuda)
    slots = [slot for name, own in cfg.reward_models.items() for slot in reward_slots(name, own)]
    if device is Device.cuda:
        for name, own in cfg.reward_models.items():
            require_own_gpus(
                own.num_ranks, cfg.trainer, cfg.cluster, field=f"reward_models.{name}.num_ranks"
            )
    return Role(
        name="rewards",
        processes=counted(len(cfg.reward_models), "reward model"),
        actors=tuple(ActorSpec(name=slot, role="reward model", num_gpus=gpus) for slot in slots),
        memory=partial(_reward_memory, cfg, paths),
        spawn=partial(
            spawn_reward,
            configs=cfg.reward_models,
            model_paths=paths,
            policy_path=policy_path,
            call_timeout_s=cfg.cluster.call_timeout_s,
        ),
    )


def _reward_memory(cfg: Any, paths: Mapping[str, str], work: Workload) -> list[Footprint]:
    return [
        each
        for model, path in paths.items()
        for each in _one_reward_memory(model, cfg, cfg.reward_models[model], path, work)
    ]


def _one_reward_memory(
    model: str, cfg: Any, own: RewardModelConfig, path: str, work: Workload
) -> list[Footprint]:
    name, value_bytes = reward_name(model), resolve_dtype(own.dtype).itemsize
    if own.engine is RewardEngine.vllm:
        return classifier_footprint(
            name,
            model_shape(path),
            value_bytes=value_bytes,
            gpu_share=own.gpu_memory_utilization,
            gpu_bytes=work.gpu_bytes,
        )
    needs = [
        each
        for slot in reward_slots(model, own)
        for each in frozen_footprint(
            slot,
            model_shape(path),
            num_tokens=work.micro_batch_tokens,
            value_bytes=value_bytes,
            logprob_chunk=0,
            on_gpu=work.on_gpu,
            sharing=own.num_ranks,
        )
    ]
    in_turns = cfg.cluster.offload_idle and not cfg.rl.runs_ahead
    return in_turn(needs, "judging") if in_turns else needs
