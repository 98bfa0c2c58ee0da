"""The Ray session of one run: start or join, check what is there, spawn, tear down.

Owns `ray.init` and actor creation. Refuses to own what the actors do. Invariant: actors of
a run die with its driver (none is detached), and a local session leaves no process behind.
"""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlpost.bounds import WEEK_S, number, option
from rlpost.cluster.batch_store import BatchStore
from rlpost.cluster.private import QUIET, asks_for_token, read_token_anew, start_private
from rlpost.cluster.reservations import Reservations
from rlpost.cluster.store_size import complaint_of_joined, joined_store_bytes, size_here
from rlpost.control.placement import ActorSpec, Placement, Slot
from rlpost.errors import UserError

log = logging.getLogger(__name__)

NICENESS = "RAY_worker_niceness"


class Device(Enum):
    """Where models run. ``auto``: CUDA where there are GPUs, here or in the joined cluster."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class ClusterConfig:
    """Which Ray cluster and which devices."""

    address: str | None = option(
        None, help="Ray cluster to join, auto or host:port; null: a private one on this machine"
    )
    device: Device = option(Device.auto, help="what trainers and generators run on")
    placement: Placement = option(
        Placement.packed, help="how training and generation share a cluster"
    )
    offload_idle: bool = option(
        False, help="models that wait leave their device: to the host, or to a file"
    )
    place_timeout_s: float = number(
        60.0, above=0, at_most=WEEK_S, help="deadline of reserving the slots of all actors"
    )
    call_timeout_s: float = number(
        1800.0, above=0, at_most=WEEK_S, help="deadline of any single actor call"
    )

    def check(self, path: str) -> None:
        """Raises UserError: an address that is empty, which Ray would take for none."""
        if self.address is not None and not self.address.strip():
            raise UserError(
                f"{path}.address names no cluster, got {self.address!r}; give auto or host:port, "
                "or null for a private cluster on this machine"
            )


def resolve_device(cfg: ClusterConfig) -> Device:
    """Replace ``auto`` by what there is: on this host, and in the cluster that is to be joined.

    A head of a cluster often has no GPU; the cluster is asked only then.

    Raises:
        UserError: cuda was asked for and there is none, or no cluster answers.
    """
    import torch

    if cfg.device is Device.cpu:
        return Device.cpu
    if torch.cuda.is_available():
        return Device.cuda
    if cfg.address is not None and _cluster_has_gpus(cfg):
        return Device.cuda
    if cfg.device is Device.cuda:
        raise UserError(
            "cluster.device=cuda, but torch sees no GPU here; use cluster.device=cpu, or install "
            "the gpu extra on a machine with a driver"
            if cfg.address is None
            else f"cluster.device=cuda, but no node of the Ray cluster at {cfg.address} offers a "
            "GPU; start its nodes with ray start --num-gpus=N, or use cluster.device=cpu"
        )
    return Device.cpu


def _cluster_has_gpus(cfg: ClusterConfig) -> bool:
    import ray

    if ray.is_initialized():  # by whoever calls this inside of a session
        return bool(ray.cluster_resources().get("GPU"))
    with Session(cfg):
        return bool(ray.cluster_resources().get("GPU"))


class Session:
    """One joined or started Ray session; use as a context manager.

    Args:
        cfg: which.
        step_bytes: what a step packs, at most, for which the object store has room; 0: nothing is
            trained.
    """

    def __init__(self, cfg: ClusterConfig, *, step_bytes: int = 0) -> None:
        self._cfg = cfg
        self._step_bytes = step_bytes
        self.batches = BatchStore()  # what ranks are given
        self._actors: list[Any] = []
        self._reservations: Reservations | None = None

    def __enter__(self) -> "Session":
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray runs workers at nice 15; here they are the work, and starve beside a browser.
        os.environ.setdefault(NICENESS, "0")
        import ray

        on_sigterm = signal.getsignal(signal.SIGTERM)
        if self._cfg.address is None:
            size = size_here(self._step_bytes)
            start_private(store_bytes=size.bytes)
            complaint = size.complaint
        else:
            _join(self._cfg.address)
            complaint = complaint_of_joined(self._step_bytes, has_bytes=joined_store_bytes())
        if complaint is not None:
            log.warning("%s", complaint)
        # ray.init takes SIGTERM over, to exit at once: nothing would be saved.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        log.info("ray session: %s", ray.get_runtime_context().get_session_name())
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        ray.shutdown()

    def place(self, actors: Sequence[ActorSpec]) -> list[Slot]:
        """Reserve a slot for every actor that holds a model; once, before any is spawned.

        Raises:
            UserError: not every actor fits.
            NoAnswer: others hold what was free a moment ago.
        """
        self._reservations = Reservations(
            actors, placement=self._cfg.placement, timeout_s=self._cfg.place_timeout_s
        )
        return self._reservations.taken

    @property
    def num_gpus(self) -> float:
        """GPUs that the run's actors occupy at this moment; parts of one add up."""
        slots = [] if self._reservations is None else self._reservations.taken
        return sum(slot.num_gpus for slot in slots)

    def spawn(
        self, cls: type, *args: Any, slot: str | None = None, concurrency: int = 1, **kwargs: Any
    ) -> Any:
        """Create an actor of ``cls``; returns the raw Ray handle.

        Args:
            cls: what to create, from ``args`` and ``kwargs``.
            slot: the name it was placed under; None: it holds no model and may run anywhere.
            concurrency: calls of an async actor that may be under way at once.

        Raises:
            NoAnswer: its slot is lost and there is no other.
        """
        import ray

        # No cores are reserved: on a small machine generation and training use them in turn,
        # which Ray's bookkeeping cannot express; thread counts do.
        where: dict[str, Any] = {"num_cpus": 0, "num_gpus": 0}
        if slot is not None:
            assert self._reservations is not None, "place comes first"
            where = self._reservations.options(slot)
        remote = ray.remote(cls).options(max_restarts=0, max_concurrency=concurrency, **where)
        actor = remote.remote(*args, **kwargs)
        self._actors.append(actor)
        return actor


def _join(address: str) -> None:
    """Join the cluster at ``address``.

    Raises:
        UserError: none answers, it refuses the token, or it has another version.
    """
    import ray
    from ray.exceptions import AuthenticationError

    read_token_anew()
    try:
        ray.init(address=address, runtime_env=_worker_environment(), **QUIET)
    except (ConnectionError, AuthenticationError) as error:
        # A cluster that refuses the token is a failed connection to Ray, with its words inside.
        if isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error.__cause__):
            raise UserError(
                f"cluster.address={address!r}: the cluster refuses this token; set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token that "
                "it was started with"
            ) from error
        raise UserError(
            f"cluster.address={address!r}: no Ray cluster answers there ({error}); start one as "
            "docs/running.md says, with a token, or leave cluster.address unset"
        ) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UserError(
            f"cluster.address={address!r}: {error}; start the driver with the cluster's Python "
            "and Ray"
        ) from error
    if not asks_for_token():
        log.warning(
            "the Ray cluster at %s asks for no token: whoever reaches its ports can run code as "
            "its user; docs/running.md says how to start it with one",
            address,
        )


def _worker_environment() -> dict[str, Any]:
    """What the workers of a joined cluster are told, as they do not inherit it."""
    return {
        "env_vars": {NICENESS: os.environ[NICENESS]},
        "worker_process_setup_hook": "rlpost.cluster.shield.keep_blocked",
    }
