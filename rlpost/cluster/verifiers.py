"""Verifier services in Ray actors, behind ``rollout.collector.Judge``."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.types import Group, Verdict
from rlpost.verifiers.base import VerifierConfig, sample_of
from rlpost.verifiers.combine import combine
from rlpost.verifiers.service import VerifierService

CONCURRENCY = 1000  # samples wait in the service, not in Ray's queue


class RemoteVerifiers:
    """The driver's end of all verifier actors; a group goes to the next one in turn."""

    def __init__(self, handles: Sequence[Stateless], *, weights: Mapping[str, float]) -> None:
        self._handles = handles
        self._turn = itertools.cycle(handles)
        self._weights = weights

    async def judge(self, group: Group) -> list[tuple[tuple[Verdict, ...], float | None]]:
        samples = [sample_of(group.prompt, t) for t in group.trajectories]
        verdicts = await next(self._turn).call("judge", samples)
        return [(v, combine(v, self._weights)) for v in verdicts]

    def counting_all(self) -> "RemoteVerifiers":
        """Return a view for evaluation: accuracy does not depend on training's weights."""
        return RemoteVerifiers(self._handles, weights=dict.fromkeys(self._weights, 1.0))

    async def close(self) -> None:
        for handle in self._handles:
            await handle.call("close", timeout_s=30)


def spawn_verifiers(
    session: Session, cfg: ClusterConfig, *, configs: Mapping[str, VerifierConfig]
) -> RemoteVerifiers:
    """Create ``cluster.verifier_actors`` services of ``cluster.verifier_workers`` processes."""

    def spawn(index: int) -> Handle:
        actor = session.spawn(
            VerifierService, dict(configs), cfg.verifier_workers, concurrency=CONCURRENCY
        )
        return Handle(actor, name=f"verifier {index}", timeout_s=cfg.judge_timeout_s)

    services = [Stateless(partial(spawn, index)) for index in range(cfg.verifier_actors)]
    return RemoteVerifiers(services, weights={n: c.weight for n, c in configs.items()})
