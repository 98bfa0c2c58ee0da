"""In which form generators get an adapter that is trained: one decision that both sides read.

Owns the decision and the engine's limits. Refuses to own the push (weights/) and the
conversion (plain_lora.py). Imports neither torch nor peft.
"""

from typing import Any

from rlpost.errors import UserError
from rlpost.training.adapters.config import NoAdapterConfig, Served, TargetedConfig

ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM may be built for


def serves_as(cfg: Any) -> Served:
    """Return how generators get what the adapter options ``cfg`` say.

    Without an adapter that is whole weights, too. The engine adds plain LoRA to linear layers and
    replaces no other module. A kind that becomes plain LoRA is merged where that is wider than the
    engine can hold; one that is plain LoRA is refused there, see ``engine_rank``.
    """
    if isinstance(cfg, NoAdapterConfig):
        return Served.merged
    if isinstance(cfg, TargetedConfig) and cfg.modules_to_save:
        return Served.merged
    if cfg.is_converted and cfg.served_rank > ENGINE_RANKS[-1]:
        return Served.merged
    served: Served = cfg.served
    return served


def engine_rank(rank: int, *, field: str = "adapter.rank") -> int:
    """Return the smallest rank that an engine can be built for and that holds ``rank``.

    Raises:
        UserError: there is none.
    """
    for largest in ENGINE_RANKS:
        if rank <= largest:
            return largest
    raise UserError(
        f"{field} must be at most {ENGINE_RANKS[-1]} where generators answer, got {rank}: the "
        "engine holds no wider adapter; lower it, or train every weight with adapter=none"
    )
