"""How long the models of a plan take over tokens, on the devices that it would have.

Owns what the times of all stages share: where actors are, which device a role has, how a trainer
divides a batch, and the engines. Refuses to own the tokens of a step (each stage's ``timing``) and
the arithmetic (roofline/).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlpost.control.placement import Slot
from rlpost.models.shape import ModelShape
from rlpost.rollout.generator_config import (
    GeneratorConfig,
    GeneratorDtype,
    KVCacheDtype,
    Quantization,
)
from rlpost.rollout.vllm.memory import held_bytes
from rlpost.roofline.communication import Layout
from rlpost.roofline.decoding import Engines
from rlpost.roofline.devices import DeviceSpec, cpu
from rlpost.roofline.efficiency import CPU_EFFICIENCY, EFFICIENCY, Efficiency
from rlpost.roofline.training import forward_s, update_s
from rlpost.stages.roles import Role
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import ReferenceRanksConfig, TrainerConfig

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class PlannedOn:
    """Where the actors of a plan would be."""

    slots: Sequence[Slot]
    gpu: DeviceSpec | None  # that each rank and part of an engine has; None: roles share cores
    cores: float  # of a node
    features: Collection[str]  # instruction sets of its processor, as in ``/proc/cpuinfo``

    @property
    def efficiency(self) -> Efficiency:
        return CPU_EFFICIENCY if self.gpu is None else EFFICIENCY

    def trainer(self, cfg: TrainerConfig) -> DeviceSpec:
        """Return what a rank has: a GPU, or all ranks together their cores."""
        if self.gpu is not None:
            return self.gpu
        number = (cfg.threads or self.cores / cfg.num_ranks) * cfg.num_ranks
        return self._cpu(number, bfloat16=resolve_dtype(cfg.dtype).itemsize == 2)

    def engine(self, cfg: GeneratorConfig) -> DeviceSpec:
        """Return what an engine has: its GPUs, or its cores."""
        if self.gpu is not None:
            return self.gpu
        number = cfg.threads or self.cores / cfg.num
        return self._cpu(number, bfloat16=cfg.dtype.value != "float32")

    def _cpu(self, number: float, *, bfloat16: bool) -> DeviceSpec:
        return cpu(cores=min(self.cores, number), features=self.features, bfloat16=bfloat16)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Tokens before a model."""

    shape: ModelShape
    device: DeviceSpec
    k: Efficiency
    tokens: float
    length: float  # of a sequence, as attention counts it

    def update_s(self, cfg: TrainerConfig, *, updates: int = 1, epochs: int = 1) -> float:
        """Return the seconds of forward, backward and optimizer.

        Args:
            cfg: of the ranks.
            updates: optimizer steps that the tokens are divided into.
            epochs: times that they are all learned.
        """
        return update_s(
            self.shape,
            self.device,
            self._layout(cfg, cfg.num_ranks, sharing=cfg.sequence_parallel_size),
            tokens=epochs * self.tokens,
            length=self.length,
            updates=updates,
            overhead_s=self.k.micro_batch_s,
            k=self.k,
        )

    def own_forward_s(self, cfg: TrainerConfig) -> float:
        """Return the seconds of scoring by the ranks that train."""
        return self.forward_s(
            cfg,
            devices=cfg.num_ranks,
            zero_stage=cfg.zero_stage,
            sharing=cfg.sequence_parallel_size,
        )

    def forward_s(
        self, cfg: TrainerConfig, *, devices: int, zero_stage: int, sharing: int = 1
    ) -> float:
        """Return the seconds of scoring on ``devices``, in micro-batches as ``cfg`` has them.

        At stage 3 they gather the model in each pass. ``sharing`` of them divide each micro-batch.
        """
        layout = replace(self._layout(cfg, devices, sharing=sharing), zero_stage=zero_stage)
        return forward_s(
            self.shape, self.device, layout, tokens=self.tokens, length=self.length, k=self.k
        )

    def of(self, shape: ModelShape) -> "Work":
        """Return the same tokens before another model."""
        return replace(self, shape=shape)

    def _layout(self, cfg: TrainerConfig, devices: int, *, sharing: int) -> Layout:
        return Layout(
            devices=devices if self.device.on_gpu else 1,  # the ranks' cores together
            micro_batch_tokens=cfg.max_tokens_per_micro_batch * self.k.filled,
            zero_stage=cfg.zero_stage,
            recomputed=float(cfg.gradient_checkpointing),
            context=sharing if self.device.on_gpu else 1,
            gradient_bytes=cfg.reduce_dtype.size_bytes,
            reduces_each=cfg.zero_stage == 2,
        )


def compared_s(
    roles: Sequence[Role],
    work: Work,
    cfg: TrainerConfig,
    *,
    reference: ReferenceRanksConfig,
    compared: bool,
) -> float:
    """Return the seconds in which the work is scored by what the policy is compared with.

    Args:
        roles: of the plan. A frozen reference is taken to be as large as the policy; without one
            the policy's own ranks score, with its adapter off.
        work: of a step.
        cfg: of the policy's ranks, whose micro-batches a reference has, too.
        reference: how a frozen reference is divided.
        compared: there is such a comparison.
    """
    if not compared:
        return 0.0
    frozen = [len(role.actors) for role in roles if role.name == "reference"]
    if not frozen:
        return work.own_forward_s(cfg)
    stage = reference.zero_stage
    return sum(work.forward_s(cfg, devices=devices, zero_stage=stage) for devices in frozen)


def engines_of(cfg: GeneratorConfig, device: DeviceSpec, shape: ModelShape) -> Engines:
    """Return the engines that ``cfg`` describes, with a model of ``shape``."""
    plain = 4 if cfg.dtype is GeneratorDtype.float32 else 2
    measured = device.on_gpu and cfg.kv_cache_gib is None
    return Engines(
        number=cfg.num,
        tensor=cfg.tensor_parallel_size,
        most_sequences=cfg.max_num_seqs,
        memory_share=cfg.gpu_memory_utilization,
        value_bytes=held_bytes(shape, cfg, value_bytes=plain) / shape.parameters,
        fp8=cfg.quantization is not Quantization.none,
        cache_value_bytes=plain if cfg.kv_cache_dtype is KVCacheDtype.auto else 1,
        cache_bytes=None
        if measured
        else cfg.tensor_parallel_size * (cfg.kv_cache_gib or 1.0) * GIB,
    )


def mean_length(longest: int, expected: float | None) -> float:
    """Return the tokens of a response on average: those expected, or all that are allowed."""
    return min(float(longest), expected or longest)


def trainer_of(plan: Any) -> Role:
    """Return the role that a plan trains, and whose weights it pushes or exports."""
    return next(role for role in plan.roles if role.trained)
