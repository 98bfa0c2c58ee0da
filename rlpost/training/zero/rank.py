"""Where a process stands in its group. Imports nothing, so that whoever names a place can."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process's place in its group of ranks."""

    rank: int
    world_size: int
    master_address: str
    master_port: int
