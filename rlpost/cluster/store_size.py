"""How large Ray's object store is to be, and what is said where there is no room for that.

Owns the one rule of its size. Refuses to own what a step packs (training/packing/step_size.py) and
what is put there (batch_store.py). A store takes no memory before something is put into it; what
it cannot hold goes to the disk and comes back, so a small one costs time and ends no run.
"""

import os
from dataclasses import dataclass
from pathlib import Path

# What the actors answer: sampled responses, scores, diagnostics.
ANSWERS_BYTES = 256 << 20
# A step's batch, and that of a step that was given up, which an error may still hold.
STEPS_HELD = 2
SHARED_MEMORY = Path("/dev/shm")
# Staged weights are there, too.
SHARE_OF_FREE, SHARE_OF_MEMORY = 0.5, 0.3


@dataclass(frozen=True, kw_only=True)
class StoreSize:
    """The size of the object store of a session that starts now.

    Example: ``StoreSize.of(5 << 30, free_bytes=8 << 30, memory_bytes=64 << 30)``
    """

    bytes: int
    wanted_bytes: int
    free_bytes: int  # in the directory of shared memory

    @classmethod
    def of(cls, step_bytes: int, *, free_bytes: int, memory_bytes: float) -> "StoreSize":
        """Decide the size for steps of ``step_bytes``, which is never below that of the answers.

        Args:
            step_bytes: what a step packs, at most; 0: nothing is trained.
            free_bytes: in the directory of shared memory.
            memory_bytes: of the machine, or of the container.
        """
        wanted = ANSWERS_BYTES + STEPS_HELD * step_bytes
        room = int(min(SHARE_OF_FREE * free_bytes, SHARE_OF_MEMORY * memory_bytes))
        return cls(
            bytes=max(ANSWERS_BYTES, min(wanted, room)), wanted_bytes=wanted, free_bytes=free_bytes
        )

    @property
    def complaint(self) -> str | None:
        """Return what a person should know; None: all of a step fits."""
        if self.bytes >= self.wanted_bytes and self.bytes <= self.free_bytes:
            return None
        return (
            f"{SHARED_MEMORY} has {_mib(self.free_bytes)} free, and Ray's object store, which "
            f"hands a step's batch to the ranks, should have {_mib(self.wanted_bytes)} there: "
            "what does not fit is written to the disk and read back; free some, enlarge it (in a "
            "container: --shm-size), or train on fewer tokens in a step"
        )


def size_here(step_bytes: int) -> StoreSize:
    """Decide the size of a private session's store on this machine; see ``StoreSize.of``."""
    from ray._common.utils import get_system_memory

    found = os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    return StoreSize.of(
        step_bytes,
        free_bytes=0 if found is None else found.f_bavail * found.f_bsize,
        memory_bytes=get_system_memory(),
    )


def joined_store_bytes() -> int:
    """Return the size of the object store of the joined cluster's node that the driver is on."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["NodeID"] == own]
    return sum(int(node["Resources"].get("object_store_memory", 0)) for node in nodes)


def complaint_of_joined(step_bytes: int, *, has_bytes: int) -> str | None:
    """Return what to say of a joined store of ``has_bytes``; None: all of a step fits."""
    wanted = ANSWERS_BYTES + STEPS_HELD * step_bytes
    if has_bytes >= wanted:
        return None
    return (
        f"the Ray node of the driver has an object store of {_mib(has_bytes)}, and a step's batch "
        f"needs {_mib(wanted)}: what does not fit is written to the disk and read back; start the "
        f"node with ray start --object-store-memory={wanted}"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes >> 20:,} MiB"
