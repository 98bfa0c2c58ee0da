"""DeepSpeed as we use it: rendezvous, engine configuration, global gradient norm.

Owns every DeepSpeed setting. Refuses to own the training verbs (deepspeed_trainer.py).
Invariants: nothing is left to a default that would change the arithmetic (clipping defaults
to 1.0, gradient sums to the compute dtype); nothing is compiled on a CPU.
"""

import datetime
import logging
import math
import os
from typing import Any

import torch
from torch import nn

from rlpost.network import serve_store, use_interface_to
from rlpost.training.optimizers.base import Optimizer
from rlpost.training.optimizers.build import GroupOf, grouped, one_group, set_rate
from rlpost.training.optimizers.parameters import parameters_of
from rlpost.training.precision import has_cuda
from rlpost.training.settings import ReduceDType, TrainerConfig
from rlpost.training.zero.deepspeed_layers import gather_by_layer, largest_layer, num_values

# Bytes of gradients that are reduced at once, and values that are gathered ahead: DeepSpeed's own.
REDUCE_BYTES, PREFETCH_BUCKET = 1_000_000_000, 50_000_000
# Into how many pieces stage 3 cuts a rank's masters, and the values below which it does not. Making
# a piece, and updating it, takes as much memory again as the piece.
NUM_PIECES, MIN_PIECE = 16, 1 << 22
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
_DTYPES = {ReduceDType.float32: "fp32", ReduceDType.bfloat16: "bf16"}  # by DeepSpeed's names


def join_ranks(
    *, rank: int, world_size: int, master_address: str, master_port: int
) -> torch.device:
    """Start the process group (NCCL on CUDA, else gloo); returns this rank's device.

    The environment is set here because DeepSpeed reads it: without LOCAL_RANK it looks for
    MPI. LOCAL_SIZE stays unset: with it DeepSpeed leaves 66 MiB a rank in shared memory.
    """
    local_rank = rank % torch.cuda.device_count() if has_cuda() else 0
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(local_rank),
        "MASTER_ADDR": master_address,
        "MASTER_PORT": str(master_port),
    }
    os.environ.pop("LOCAL_SIZE", None)
    use_interface_to(master_address)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not has_cuda():
        _forbid_shared_memory_op()
    backend = "nccl" if has_cuda() else "gloo"
    # DeepSpeed adopts the group. It would have made the same one, over a store that listens on
    # every interface; it too binds the device only if there are several ranks.
    torch.distributed.init_process_group(
        backend,
        store=_common_store(rank, world_size, master_address, master_port),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=torch.device("cuda", local_rank) if has_cuda() and world_size > 1 else None,
    )
    deepspeed.init_distributed(
        dist_backend=backend,
        auto_mpi_discovery=False,
        verbose=False,
        timeout=COLLECTIVE_TIMEOUT,
    )
    if not has_cuda():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _forbid_shared_memory_op() -> None:
    """It would be compiled for half a minute under a lock that outlives kills.

    On CUDA it is never used, and asking for the table would run nvcc and fail without it.
    """
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False


def _common_store(rank: int, world_size: int, address: str, port: int) -> Any:
    """Return the store in which the ranks find each other, once all have joined it."""
    if rank == 0:
        return serve_store(address, port, timeout=COLLECTIVE_TIMEOUT, num_clients=world_size)
    return torch.distributed.TCPStore(address, port, world_size, timeout=COLLECTIVE_TIMEOUT)


def engine_config(
    cfg: TrainerConfig,
    *,
    dtype: torch.dtype,
    hidden_size: int,
    num_parameters: int,
    on_gpu: bool,
    largest_layer: int = 0,
) -> dict[str, Any]:
    """Translate our options into DeepSpeed's; ``largest_layer`` is in values.

    Micro-batches are counted by us: its accumulation is set to 1 and the boundary is
    announced before each backward pass, else stages 1 and 2 keep only the last micro-batch.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**62,
        "gradient_clipping": cfg.max_grad_norm,
        # It would be that of the forward pass. What stages 2 and 3 reduce is added to their sums
        # as it comes; stage 0 rounds it once, to the gradients that the weights keep.
        "communication_data_type": _DTYPES[cfg.reduce_dtype],
        "zero_optimization": {
            "stage": cfg.zero_stage,
            # On GPUs stage 3 sends each rank its part alone; on a CPU DeepSpeed would start a
            # process each time, to count cores. Stage 2 sends everything to all either way, and
            # with this would divide by the ranks in bfloat16 before.
            "reduce_scatter": on_gpu and cfg.zero_stage == 3,
            # The other stages would begin to reduce gradients earlier, at the price of a second
            # bucket.
            "overlap_comm": on_gpu and cfg.zero_stage == 3,
            # Stage 3 keeps a buffer of this many values; more than there are is waste.
            "reduce_bucket_size": min(REDUCE_BYTES // cfg.reduce_dtype.size_bytes, num_parameters),
            "sub_group_size": piece_size(num_parameters, num_ranks=cfg.num_ranks),
            **_gathering(hidden_size, largest_layer),
        },
    }
    if cfg.offload_optimizer:
        place = {"device": "cpu", "pin_memory": on_gpu}
        config["zero_optimization"]["offload_optimizer"] = place
        # DeepSpeed's own Adam for CPUs would have to be compiled; torch's is fused there, too.
        config["zero_force_ds_cpu_optimizer"] = False
    if dtype is torch.bfloat16:
        config["bf16"] = {"enabled": True}
        if cfg.zero_stage > 0:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def frozen_config(
    *, dtype: torch.dtype, hidden_size: int, on_gpu: bool, largest_layer: int
) -> dict[str, Any]:
    """Return DeepSpeed's options for a model whose weights are divided and never change."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": 2**62,
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": on_gpu,
            "memory_efficient_linear": False,  # it is for backward passes
            **_gathering(hidden_size, largest_layer),
        },
    }
    if dtype is torch.bfloat16:
        config["bf16"] = {"enabled": True}
    return config


def _gathering(hidden_size: int, largest_layer: int) -> dict[str, Any]:
    """Return what stage 3 makes whole ahead of its use, and what stays whole.

    With ``overlap_comm`` it gathers the next weights on a stream of their own while it computes;
    without, every gather waits for the layer before. On a CPU there are no streams.
    """
    return {
        # The layer behind the one in use, which is gathered at once (deepspeed_layers.py).
        "stage3_prefetch_bucket_size": max(PREFETCH_BUCKET, largest_layer),
        # Norms stay whole on every rank, matrices do not.
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }


def piece_size(num_parameters: int, *, num_ranks: int) -> int:
    """Return how many values of a rank stage 3 updates at a time; the last piece has fewer.

    Example: ``piece_size(64 * 2**22, num_ranks=2) == 2 * 2**22``
    """
    return max(MIN_PIECE, -(-num_parameters // (num_ranks * NUM_PIECES)))


def build_engine(
    policy: nn.Module,
    cfg: TrainerConfig,
    *,
    dtype: torch.dtype,
    optimizer: Optimizer,
    group_of: GroupOf = one_group,
) -> Any:
    """Wrap ``policy``, a ``PackedModel``, in a DeepSpeed engine.

    Args:
        policy: what of it requires a gradient is trained; its weights may be divided already.
        cfg: the options of what is trained.
        dtype: of the forward and backward pass.
        optimizer: turns gradients into updates.
        group_of: which parameters have a rate or a decay of their own, by name.
    """
    import deepspeed

    hidden_size = policy.model.config.get_text_config().hidden_size
    # Of an adapter's model that is the adapter, and a head of its own.
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    config = engine_config(
        cfg,
        dtype=dtype,
        hidden_size=hidden_size,
        num_parameters=num_values(trained.values()),
        on_gpu=has_cuda(),
        largest_layer=largest_layer(policy),
    )
    groups = grouped(
        optimizer,
        trained,
        parameters_of(policy.model, trained),
        weight_decay=cfg.weight_decay,
        group_of=group_of,
    )
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer.make(groups), config=config)
    gather_by_layer(engine)
    if dtype is torch.bfloat16 and cfg.zero_stage == 0:
        # This path begins with a real step on zero gradients (harmless at rate 0), which
        # would leave the optimizer's count of updates one ahead of the other stages.
        engine.optimizer.optimizer.state.clear()
    return engine


def release_gathered(engine: Any) -> None:
    """Give back the weights that ZeRO-3 keeps whole after a forward pass; collective.

    It also ends the gathers that were begun ahead of the next pass.
    """
    if engine.zero_optimization_stage() < 3:
        return
    engine.empty_partition_cache()
    whole = engine.optimizer.persistent_parameters
    if whole:
        whole[0].all_gather(whole)


def set_lr(engine: Any, lr: float) -> None:
    """Set the learning rate of the next step."""
    set_rate(engine.optimizer, lr)


def largest_lr(engine: Any) -> float:
    """Return the largest learning rate that the optimizer has."""
    return float(max(group["lr"] for group in engine.optimizer.param_groups))


def leave_ranks(engine: Any) -> None:
    """Destroy the engine and the group; the process may then join another."""
    import deepspeed

    engine.destroy()
    # Not torch's own function: it would leave DeepSpeed's register of groups stale.
    deepspeed.comm.destroy_process_group()


def update(engine: Any) -> tuple[float, bool]:
    """Update unless the gradient is not finite; returns its norm and whether it updated."""
    if not is_plain_optimizer(engine):
        engine.step()
        return float(engine.get_global_grad_norm()), engine.was_step_applied()
    # Stage 0 in float32 would apply NaN silently.
    grad_norm = plain_grad_norm(engine)
    if math.isfinite(grad_norm):
        engine.step()
        return grad_norm, True
    engine.optimizer.zero_grad()
    engine.zero_grad()
    return grad_norm, False


def is_plain_optimizer(engine: Any) -> bool:
    """Stage 0 in float32: DeepSpeed neither measures the gradient nor checks it."""
    return not engine.zero_optimization() and not engine.bfloat16_enabled()


def plain_grad_norm(engine: Any) -> float:
    """Global L2 norm of already averaged gradients; only for ``is_plain_optimizer``."""
    grads = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(grads))
