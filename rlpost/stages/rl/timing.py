"""How long a step of an RL run would take, from its plan.

Owns what a plan says of the work: tokens, layouts, engines, transport. Refuses to own the
arithmetic (roofline/).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rlpost.config.schema import Anchor
from rlpost.control.placement import Slot
from rlpost.models.shape import ModelShape, model_shape
from rlpost.roofline.devices import DeviceSpec, cpu
from rlpost.roofline.efficiency import CPU_EFFICIENCY, EFFICIENCY, Efficiency
from rlpost.roofline.generation import Engines, Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.pushing import push_s
from rlpost.roofline.steps import StepTime
from rlpost.roofline.training import Layout, forward_s, update_s
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.sampling.push_plan import planned_transport
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class _Hosts:
    """What roles run on: one GPU each, or the cores that a role's threads may use."""

    generator: DeviceSpec
    trainer: DeviceSpec


def timing(
    plan: RLPlan,
    *,
    slots: Sequence[Slot],
    gpu: DeviceSpec | None,
    cores: float,
    features: Collection[str],
    mean_response: float | None,
) -> StepTime:
    """Return the parts of a step of ``plan``.

    Args:
        plan: a checked run.
        slots: of its actors.
        gpu: that each rank and part of an engine has; None: roles share cores.
        cores: of a node.
        features: instruction sets of its processor, as in ``/proc/cpuinfo``.
        mean_response: tokens of a response on average; None: all that are allowed.

    Raises:
        DoesNotFit: an engine cannot hold the weights and one sequence.
    """
    cfg, hosts = plan.cfg, _hosts(plan, gpu=gpu, cores=cores, features=features)
    k = EFFICIENCY if hosts.trainer.on_gpu else CPU_EFFICIENCY
    shape = model_shape(plan.model_path)
    rollout = cfg.rollout
    mean = min(float(rollout.max_tokens), mean_response or rollout.max_tokens)
    prompt = plan.sampling.mean_prompt
    work = _Work(
        shape=shape,
        device=hosts.trainer,
        tokens=_tokens(plan, mean),
        length=prompt + mean,
        k=k,
    )
    requests = Requests(
        prompts=rollout.prompts_per_step,
        samples=rollout.group_size,
        prompt_tokens=prompt,
        lengths=Lengths(mean=mean, longest=rollout.max_tokens),
    )
    ahead = cfg.rl.max_staleness
    trainer = next(role for role in plan.roles if role.name == "trainer")
    transport = planned_transport(cfg.weights, slots)
    updates = cfg.algorithm.updates_per_step
    training = work.update_s(cfg.trainer, updates=updates, epochs=cfg.algorithm.epochs)
    # As large as the policy, like the reference; a smaller one takes less.
    critic = cfg.critic.trainer(cfg.trainer) if cfg.critic.enabled else None
    if critic is not None:
        training += work.update_s(critic, updates=updates, epochs=cfg.algorithm.epochs)
    return StepTime(
        generation_s=generation_s(
            shape, hosts.generator, _engines(plan, hosts), requests, overlapping=1 + ahead, k=k
        ),
        scoring_s=_scoring_s(plan, work, critic),
        training_s=training,
        push_s=push_s(trainer.export_bytes, transport.value, on_gpu=hosts.trainer.on_gpu, k=k),
        switching_s=k.step_s if cfg.cluster.offload_idle else 0.0,
        overlaps=ahead > 0,
    )


def _hosts(
    plan: RLPlan, *, gpu: DeviceSpec | None, cores: float, features: Collection[str]
) -> _Hosts:
    """Return the devices of a run's roles; arguments as those of ``timing``."""
    if gpu is not None:
        return _Hosts(generator=gpu, trainer=gpu)
    trainer, generator = plan.cfg.trainer, plan.sampling.generator
    used = {
        "trainer": (trainer.threads or cores / trainer.num_ranks) * trainer.num_ranks,
        "generator": generator.threads or cores / generator.num,
    }
    bfloat16 = resolve_dtype(trainer.dtype).itemsize == 2
    return _Hosts(
        **{
            role: cpu(cores=min(cores, number), features=features, bfloat16=bfloat16)
            for role, number in used.items()
        }
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A step's tokens, before a model."""

    shape: ModelShape
    device: DeviceSpec
    tokens: float
    length: float
    k: Efficiency

    def update_s(self, cfg: TrainerConfig, *, updates: int, epochs: int) -> float:
        return update_s(
            self.shape,
            self.device,
            self._layout(cfg, cfg.num_ranks),
            tokens=epochs * self.tokens,
            length=self.length,
            updates=updates,
            overhead_s=self.k.micro_batch_s,
            k=self.k,
        )

    def forward_s(self, cfg: TrainerConfig, *, devices: int) -> float:
        layout = self._layout(cfg, devices)
        return forward_s(
            self.shape, self.device, layout, tokens=self.tokens, length=self.length, k=self.k
        )

    def _layout(self, cfg: TrainerConfig, devices: int) -> Layout:
        return Layout(
            devices=devices if self.device.on_gpu else 1,  # the ranks' cores together
            micro_batch_tokens=cfg.max_tokens_per_micro_batch * self.k.filled,
            zero_stage=cfg.zero_stage,
            recomputed=float(cfg.gradient_checkpointing),
        )


def _tokens(plan: RLPlan, mean: float) -> float:
    """Return what a step packs: a shared prompt counts once."""
    rollout = plan.cfg.rollout
    prompts = 1 if plan.cfg.trainer.share_prompts else rollout.group_size
    each = prompts * plan.sampling.mean_prompt + rollout.group_size * mean
    return rollout.prompts_per_step * each


def _scoring_s(plan: RLPlan, work: _Work, critic: TrainerConfig | None) -> float:
    """Return what scores a step before it is trained on, one after the other."""
    cfg = plan.cfg
    seconds = 0.0
    for role in plan.roles:
        if role.name == "reference":
            seconds += work.forward_s(cfg.trainer, devices=len(role.actors))
    if cfg.algorithm.anchor is Anchor.proximal:
        seconds += work.forward_s(cfg.trainer, devices=cfg.trainer.num_ranks)
    if critic is not None:
        seconds += work.forward_s(critic, devices=critic.num_ranks)
    return seconds


def _engines(plan: RLPlan, hosts: _Hosts) -> Engines:
    cfg = plan.sampling.generator
    return Engines(
        number=cfg.num,
        tensor=cfg.tensor_parallel_size,
        most_sequences=cfg.max_num_seqs,
        memory_share=cfg.gpu_memory_utilization,
        value_bytes=4.0 if cfg.dtype.value == "float32" else 2.0,
        cache_bytes=None if hosts.generator.on_gpu else float(cfg.kv_cache_gib * GIB),
    )
