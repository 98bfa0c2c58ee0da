"""Verifier services in Ray actors, behind ``rollout.collector.GroupJudge``."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rlpost.bounds import WEEK_S, number
from rlpost.cluster.handle import Handle, Stateless
from rlpost.cluster.session import ClusterConfig, Session
from rlpost.types import Group, Verdict
from rlpost.verifiers.base import VerifierConfig, sample_of
from rlpost.verifiers.workers.service import VerifierService

CONCURRENCY = 1000  # samples wait in the service, not in Ray's queue

Decode = Callable[[Sequence[int]], str]  # prompt tokens -> the text that they stand for


class RemoteVerifiers:
    """The driver's end of all verifier actors; a group goes to the next one in turn."""

    def __init__(
        self,
        handles: Sequence[Stateless],
        *,
        configs: Mapping[str, VerifierConfig],
        decode: Decode,
        timeout_s: float,
    ) -> None:
        """Judge with the services behind ``handles``.

        Args:
            handles: one per service, each of which has every verifier.
            configs: name -> config, as ``check`` returned them.
            decode: gives verifiers the prompt as the model read it.
            timeout_s: after which a service that judges a group counts as hung; see ``judge``.
        """
        self._handles = handles
        self._turn = itertools.cycle(handles)
        self._configs = configs
        self._decode = decode
        self._timeout_s = timeout_s

    async def judge(self, group: Group) -> list[tuple[Verdict, ...]]:
        """Judge the responses to one prompt with every verifier; see ``GroupJudge``.

        Verifiers that judge groups in one call may need three turns of all responses' deadlines
        (verifiers/workers/groups.py); a service is given that time even beyond its ``timeout_s``.
        """
        prompt_text = self._decode(group.prompt.token_ids)
        samples = [sample_of(group.prompt, e, prompt_text=prompt_text) for e in group.episodes]
        together_s = [cfg.timeout_s for cfg in self._configs.values() if cfg.judges_groups]
        timeout_s = max(self._timeout_s, 3 * len(samples) * max(together_s, default=0.0))
        verdicts: list[tuple[Verdict, ...]] = await next(self._turn).call(
            "judge", samples, timeout_s=timeout_s
        )
        return verdicts

    async def close(self) -> None:
        for handle in self._handles:
            await handle.call("close", timeout_s=30)


@dataclass(kw_only=True)
class JudgedClusterConfig(ClusterConfig):
    """Which Ray cluster and which devices, and who judges responses there."""

    verifier_actors: int = number(1, at_least=1, at_most=1000, help="actors that judge responses")
    verifier_workers: int = number(
        2, at_least=1, at_most=1000, help="worker processes per verifier actor"
    )
    judge_timeout_s: float = number(
        300.0,
        above=0,
        at_most=WEEK_S,
        help="deadline of judging one group; a late verifier is replaced",
    )


def spawn_verifiers(
    session: Session,
    cfg: JudgedClusterConfig,
    *,
    configs: Mapping[str, VerifierConfig],
    decode: Decode,
) -> RemoteVerifiers:
    """Create ``cluster.verifier_actors`` services of ``cluster.verifier_workers`` processes."""

    def spawn(index: int) -> Handle:
        actor = session.spawn(
            VerifierService, dict(configs), cfg.verifier_workers, concurrency=CONCURRENCY
        )
        return Handle(actor, name=f"verifier {index}", timeout_s=cfg.judge_timeout_s)

    services = [Stateless(partial(spawn, index)) for index in range(cfg.verifier_actors)]
    return RemoteVerifiers(services, configs=configs, decode=decode, timeout_s=cfg.judge_timeout_s)
