"""What an RL run needs in memory, before anything starts.

Owns the sum over the roles and what has no role; the arithmetic is each room's own
(``*/memory.py``). Refuses to own how it is shown (cli/plan.py).
"""

from dataclasses import dataclass

from rlpost.cluster.session import Device
from rlpost.models.footprint import Footprint
from rlpost.models.shape import model_shape
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.roles import Workload, checkpoint_bytes_of
from rlpost.training.precision import resolve_dtype

GIB = 2**30
DRIVER_BYTES = 1.7 * GIB  # datasets and transformers are imported here, too
SAMPLE_BYTES = 400  # of a line of rollouts/, without the response
CHARACTERS_PER_TOKEN = 4


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


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Every process of a run."""

    footprints: list[Footprint]  # of those who have a slot
    unplaced: list[Footprint]  # driver and verifiers
    tokens_per_step: int  # at most, responses and prompts
    micro_batch_tokens: int
    offloads: bool  # idle models leave memory
    disk: DiskUse

    def of(self, actor: str) -> list[Footprint]:
        """Return the footprints of one slot's processes."""
        own = f"{actor}: "
        return [f for f in self.footprints if f.process == actor or f.process.startswith(own)]


def estimate(plan: RLPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``.

    Args:
        plan: a checked run.
        gpu_bytes: memory of one GPU; None: the run is on CPU.
    """
    cfg = plan.cfg
    prompt = _mean_prompt(plan)
    tokens = cfg.rollout.prompts_per_step * (
        prompt + cfg.rollout.group_size * cfg.rollout.max_tokens
    )
    in_micro_batch = min(
        cfg.trainer.max_tokens_per_micro_batch, -(-tokens // cfg.trainer.num_ranks)
    )
    work = Workload(
        micro_batch_tokens=in_micro_batch,
        on_gpu=plan.device is Device.cuda,
        gpu_bytes=gpu_bytes,
    )
    driver = Footprint(process="driver", kept={"libraries": DRIVER_BYTES})
    placed = [role for role in plan.roles if role.actors]
    others = [role for role in plan.roles if not role.actors]
    return Estimate(
        footprints=[each for role in placed for each in role.memory(work)],
        unplaced=[driver, *(each for role in others for each in role.memory(work))],
        tokens_per_step=tokens,
        micro_batch_tokens=in_micro_batch,
        offloads=cfg.cluster.offload_idle,
        disk=_disk_use(plan, model_shape(plan.model_path).parameters),
    )


def _disk_use(plan: RLPlan, policy_parameters: int) -> DiskUse:
    cfg = plan.cfg
    responses = cfg.rollout.prompts_per_step * cfg.rollout.group_size * cfg.trainer.steps
    return DiskUse(
        checkpoint_bytes=checkpoint_bytes_of(plan.roles),
        num_checkpoints=cfg.checkpoint.num_kept + 1,
        export_bytes=policy_parameters * resolve_dtype(cfg.trainer.dtype).itemsize,
        samples_bytes=responses * (SAMPLE_BYTES + cfg.rollout.max_tokens * CHARACTERS_PER_TOKEN),
    )


def _mean_prompt(plan: RLPlan) -> int:
    rows = range(min(len(plan.train_set), 256))
    return sum(len(plan.train_set.prompt(0, row).token_ids) for row in rows) // len(rows)
