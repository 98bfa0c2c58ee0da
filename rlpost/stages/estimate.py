"""What a run needs in memory and on disk, before anything starts.

Owns the records and the sum over the roles; the arithmetic is each room's own (``*/memory.py``).
Refuses to own what a stage trains and writes in a step (its own ``estimate``) and how it is shown
(cli/plan.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rlpost.checkpoint.space import format_bytes
from rlpost.cluster.session import Device
from rlpost.models.footprint import Footprint
from rlpost.stages.roles import Role, Workload, checkpoint_bytes_of
from rlpost.training.packing.step_size import StepSize

GIB = 2**30
RESPONSE_BYTES = 400  # of a line of a file of responses, without the response's text
CHARACTERS_PER_TOKEN = 4
DRIVER_BYTES = 1.7 * GIB  # datasets and transformers are imported here, too


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """What a run's directory will hold, in bytes."""

    checkpoint_bytes: int  # of one
    num_checkpoints: int  # at most: those kept and the one being written
    export_bytes: int
    samples_bytes: int  # all steps, if every response gets as long as it may

    @property
    def total_bytes(self) -> int:
        return self.num_checkpoints * self.checkpoint_bytes + self.export_bytes + self.samples_bytes

    @property
    def sentence(self) -> str:
        others = self.num_checkpoints - 1
        kept = f"{others} {'stays' if others == 1 else 'stay'}"
        samples = f", all samples {format_bytes(self.samples_bytes)}" if self.samples_bytes else ""
        return (
            f"On disk it takes up to {format_bytes(self.total_bytes)}: a checkpoint "
            f"{format_bytes(self.checkpoint_bytes)}, of which {kept} "
            f"(checkpoint.keep) while one more is written, the export "
            f"{format_bytes(self.export_bytes)}{samples}."
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Every process of a run."""

    footprints: list[Footprint]  # of those who have a slot
    unplaced: list[Footprint]  # the driver, and roles without a slot
    sentences: Sequence[str]  # what is worked on, and what is written
    way_out: str  # if it does not fit: what to do, as the end of a sentence
    step_bytes: int = 0  # that a step puts into the object store, at most

    def of(self, actor: str) -> list[Footprint]:
        """Return the footprints of one slot's processes."""
        own = f"{actor}: "
        return [f for f in self.footprints if f.process == actor or f.process.startswith(own)]


def response_bytes(max_tokens: int) -> int:
    """Return what a file of responses holds of one, if it gets as long as it may."""
    return RESPONSE_BYTES + max_tokens * CHARACTERS_PER_TOKEN


def driver_footprint(size: StepSize | None = None) -> Footprint:
    """Return the memory of the process that drives a run, with what it puts into shared memory.

    ``size`` is that of a step; None: nothing is trained.
    """
    batches = {} if size is None else {"object store": float(size.bytes)}
    return Footprint(process="driver", kept={"libraries": DRIVER_BYTES, **batches})


class Estimated(Protocol):
    """What is asked of a plan here."""

    @property
    def cfg(self) -> Any:
        """A ``StageConfig``."""

    @property
    def roles(self) -> Sequence[Role]:
        """Who exists."""

    @property
    def device(self) -> Device:
        """Where models run."""

    @property
    def step_size(self) -> StepSize:
        """What a step packs, at most."""


def add_up(plan: Estimated, *, samples_bytes: int = 0, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``.

    Args:
        plan: a checked run.
        samples_bytes: what all steps write to ``rollouts/``, at most.
        gpu_bytes: memory of one GPU; None: the run is on CPU.
    """
    cfg, size = plan.cfg, plan.step_size
    in_micro_batch = min(
        cfg.trainer.max_tokens_per_micro_batch, -(-size.tokens // cfg.trainer.data_ranks)
    )
    work = Workload(
        micro_batch_tokens=in_micro_batch,
        on_gpu=plan.device is Device.cuda,
        gpu_bytes=gpu_bytes,
    )
    placed = [role for role in plan.roles if role.actors]
    others = [role for role in plan.roles if not role.actors]
    disk = DiskUse(
        checkpoint_bytes=checkpoint_bytes_of(plan.roles),
        num_checkpoints=cfg.checkpoint.num_kept + 1,
        export_bytes=next(role.export_bytes for role in plan.roles if role.trained),
        samples_bytes=samples_bytes,
    )
    return Estimate(
        footprints=[each for role in placed for each in role.memory(work)],
        unplaced=[driver_footprint(size), *(each for role in others for each in role.memory(work))],
        sentences=(
            f"A step trains at most {size.tokens:,} tokens, in micro-batches of up to "
            f"{in_micro_batch:,}{_divided(cfg.trainer)}; its ranks read them, up to "
            f"{format_bytes(size.bytes)}, from Ray's object store.",
            *_largest_micro_batch(plan.roles, work),
            disk.sentence,
        ),
        way_out=_less_memory(offloads=cfg.cluster.offload_idle),
        step_bytes=size.bytes,
    )


def _divided(trainer: Any) -> str:
    size = trainer.sequence_parallel_size
    return "" if size == 1 else f", each divided over {size} ranks"


def _largest_micro_batch(roles: Sequence[Role], work: Workload) -> list[str]:
    """Say up to how many tokens trained models would fit into a GPU of their own, if they do not.

    Memory grows with the tokens, so that the limit is found by halving.
    """
    gpu_bytes = work.gpu_bytes
    if not work.on_gpu or gpu_bytes is None:
        return []
    sentences = []
    for role in (role for role in roles if role.trained):

        def fits(tokens: int, role: Role = role) -> bool:
            needs = role.memory(replace(work, micro_batch_tokens=tokens))
            return all(each.peak_bytes <= gpu_bytes for each in needs if each.on_gpu)

        if fits(work.micro_batch_tokens):
            continue
        largest, too_many = 0, work.micro_batch_tokens
        while too_many - largest > 1:
            middle = (largest + too_many) // 2
            largest, too_many = (middle, too_many) if fits(middle) else (largest, middle)
        sentences.append(
            f"A {role.name} rank fits into a GPU of {gpu_bytes / GIB:.1f} GiB with micro-batches "
            f"of up to {largest:,} tokens."
            if largest
            else f"A {role.name} rank fits into no GPU of {gpu_bytes / GIB:.1f} GiB."
        )
    return sentences


def _less_memory(*, offloads: bool) -> str:
    offload = "" if offloads else "move idle models out with cluster.offload_idle=true, "
    return (
        "lower trainer.max_tokens_per_micro_batch, or divide it with a higher "
        "trainer.sequence_parallel_size, set trainer.gradient_checkpointing=true or "
        f"trainer.zero_stage=3 with more trainer.num_ranks, {offload}or give generators less "
        "(generator.kv_cache_gib on CPU, generator.gpu_memory_utilization on GPU)"
    )
