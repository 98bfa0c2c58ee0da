"""Which models an RL run has: the one place that decides who exists.

Owns the list, in the order of slots. Refuses to own the arithmetic of memory (``*/memory.py``)
and the order of set-up (boot.py).
"""

from collections.abc import Mapping
from functools import partial

from rlpost.cluster.ranks import rank_name
from rlpost.cluster.reference import REFERENCE, spawn_reference
from rlpost.cluster.reward import reward_name, spawn_reward
from rlpost.cluster.session import Device
from rlpost.cluster.supervision import generator_name
from rlpost.cluster.trained import spawn_trained
from rlpost.config.schema import RLConfig
from rlpost.control.placement import ActorSpec
from rlpost.models.footprint import Footprint, in_turn
from rlpost.models.shape import model_shape
from rlpost.rollout.memory import classifier_footprint, generator_footprint
from rlpost.rollout.vllm_generator import GeneratorConfig, GeneratorDtype
from rlpost.stages.rl.models import RunModels
from rlpost.stages.roles import Role, Workload
from rlpost.training.memory import frozen_footprint, trained_footprint
from rlpost.training.model.loading import TrainedModel
from rlpost.training.precision import resolve_dtype
from rlpost.training.reward.settings import RewardEngine, RewardModelConfig
from rlpost.training.settings import TrainerConfig


def roles_of(
    cfg: RLConfig, *, models: RunModels, generator: GeneratorConfig, device: Device
) -> list[Role]:
    """Return every role of a run, the ranks of a group in rank order."""
    gpus = 1 if device is Device.cuda else 0
    common = {"call_timeout_s": cfg.cluster.call_timeout_s}
    roles = [_trained("trainer", cfg, cfg.trainer, path=models.policy, gpus=gpus)]
    if cfg.critic.enabled:
        critic = cfg.critic.trainer(cfg.trainer)
        roles.append(_trained("critic", cfg, critic, path=models.critic, gpus=gpus))
    if cfg.algorithm.kl.needs_reference:
        reference = ActorSpec(name=REFERENCE, role="reference", num_gpus=gpus)
        model = TrainedModel.policy(models.policy, cfg.trainer)
        spawn = partial(spawn_reference, cfg=cfg.trainer, model=model, **common)
        memory = partial(_reference_memory, cfg, models.policy)
        roles.append(Role(name="reference", actors=(reference,), memory=memory, spawn=spawn))
    if cfg.reward_models:
        actors = tuple(
            ActorSpec(name=reward_name(name), role="reward model", num_gpus=gpus)
            for name in cfg.reward_models
        )
        spawn = partial(
            spawn_reward,
            configs=cfg.reward_models,
            model_paths=models.rewards,
            policy_path=models.policy,
            **common,
        )
        memory = partial(_reward_memory, cfg, models.rewards)
        roles.append(Role(name="rewards", actors=actors, memory=memory, spawn=spawn))
    generators = tuple(
        ActorSpec(
            name=generator_name(index),
            role="generator",
            num_gpus=gpus * generator.tensor_parallel_size,
        )
        for index in range(generator.num)
    )
    memory = partial(_generator_memory, generator, models.policy)
    return [*roles, Role(name="generators", actors=generators, memory=memory)]


def _trained(name: str, cfg: RLConfig, trainer: TrainerConfig, *, path: str, gpus: int) -> Role:
    ranks = range(trainer.num_ranks)
    timeout_s = cfg.cluster.call_timeout_s
    return Role(
        name=name,
        actors=tuple(
            ActorSpec(name=rank_name(name, rank), role=name, num_gpus=gpus) for rank in ranks
        ),
        memory=partial(_trained_memory, name, cfg, trainer, path),
        spawn=partial(spawn_trained, cfg=cfg.trainer, group=name, call_timeout_s=timeout_s),
        trained=True,
    )


def _trained_memory(
    name: str, cfg: RLConfig, trainer: TrainerConfig, path: str, work: Workload
) -> list[Footprint]:
    head = {} if name == "trainer" else {"has_head": False}
    common = _common(cfg, work)
    needs = [
        trained_footprint(rank_name(name, rank), model_shape(path), trainer, **common, **head)
        for rank in range(trainer.num_ranks)
    ]
    return [
        each
        for rank in needs
        for each in (in_turn(rank, "training") if cfg.cluster.offload_idle else rank)
    ]


def _reference_memory(cfg: RLConfig, path: str, work: Workload) -> list[Footprint]:
    chunk = cfg.trainer.logprob_chunk
    needs = frozen_footprint(
        REFERENCE, model_shape(path), logprob_chunk=chunk, **_common(cfg, work)
    )
    return in_turn(needs, "reference") if cfg.cluster.offload_idle else needs


def _reward_memory(cfg: RLConfig, paths: Mapping[str, str], work: Workload) -> list[Footprint]:
    return [
        each
        for model, path in paths.items()
        for each in _one_reward_memory(model, cfg, cfg.reward_models[model], path, work)
    ]


def _one_reward_memory(
    model: str, cfg: RLConfig, own: RewardModelConfig, path: str, work: Workload
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
    common = _common(cfg, work) | {"value_bytes": value_bytes}
    needs = frozen_footprint(name, model_shape(path), logprob_chunk=0, **common)
    in_turns = cfg.cluster.offload_idle and not cfg.rl.runs_ahead
    return in_turn(needs, "judging") if in_turns else needs


def _generator_memory(generator: GeneratorConfig, path: str, work: Workload) -> list[Footprint]:
    value_bytes = 4 if generator.dtype is GeneratorDtype.float32 else 2
    return [
        each
        for index in range(generator.num)
        for each in generator_footprint(
            generator_name(index),
            model_shape(path),
            generator,
            value_bytes=value_bytes,
            gpu_bytes=work.gpu_bytes,
        )
    ]


def _common(cfg: RLConfig, work: Workload) -> dict[str, float | bool]:
    return {
        "num_tokens": work.micro_batch_tokens,
        "value_bytes": resolve_dtype(cfg.trainer.dtype).itemsize,
        "on_gpu": work.on_gpu,
    }
