"""A push is a transaction: begin, transfer, load, probe, then commit or abort everywhere.

Owns versions, deadlines, the decision and who took part. Refuses to own bytes (transports/,
publisher.py), kernels (vllm_plugin.py) and processes (cluster/). Invariants: versions
strictly increase and are never reused, not even after an abort; every wait has a deadline
and its error names who is missing; a version is served only after trainer and generator
agreed on the probe's log-probs; once all agreed, the version is committed, whoever dies then;
where generators and what trains take turns on a device, the ones leave it before the others come.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlpost.control.fleet import Fleet
from rlpost.errors import GroupLost, InfrastructureError, PushEnded, WeightPushError
from rlpost.weights.deadline import BUS_PHASES
from rlpost.weights.kernel_digest import Agreed, agreed, differing
from rlpost.weights.phase import Refused, Verb, ask_all, noticed
from rlpost.weights.probe_answers import worst_difference
from rlpost.weights.protocol import BusConfig, Publisher, PushReport, PushTarget
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.turns import Turns

log = logging.getLogger(__name__)

TRAINER = "trainer"


@dataclass(frozen=True, kw_only=True)
class _Served:
    """The newest committed version, for generators that join later."""

    version: int
    locator: Locator
    probe: list[list[float]]
    kernels: Agreed  # of all engines; empty where they were not compared


class WeightBus:
    """Pushes policy versions from one trainer group to the fleet.

    Args:
        publisher: the trainer group.
        fleet: who can take part; told who is in sync.
        receivers: name -> generator; changes with the fleet.
        seats: name -> where its workers receive.
        probe: token ids of the fixed probe sequences, each at least 2 long.
        cfg: deadlines and bound.
        changed: returns when the fleet has changed.
        leave: takes what trains off the devices that generators need; they leave them for ``rest``,
            and come back for a push. None: both stay.
        clock: seconds.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        fleet: Fleet,
        receivers: Mapping[str, PushTarget],
        seats: Mapping[str, Seat],
        probe: Sequence[Sequence[int]],
        cfg: BusConfig,
        changed: Callable[[], Awaitable[None]],
        leave: Callable[[], Awaitable[Any]] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._publisher = publisher
        self._fleet = fleet
        self._receivers = receivers
        self._seats = seats
        self._probe = [list(s) for s in probe]
        self._cfg = cfg
        self._turns = Turns(leave, fleet=fleet, receivers=receivers, changed=changed, cfg=cfg)
        self._clock = clock
        self._served: _Served | None = None
        self._lock = asyncio.Lock()  # one push at a time
        self._lost: list[GroupLost] = []  # what catch-ups found out about the trainer
        self._found_lost = asyncio.Event()
        self._num_pushed = self._num_differed = 0
        self.last_version = 0
        # Generators in a push: while they load they answer nothing else, and each phase of the
        # push has a deadline that names who is silent.
        self.engaged: set[str] = set()

    @property
    def takes_turns(self) -> bool:
        """Whether generators have to leave their devices before anything can train."""
        return self._turns.taken

    @property
    def resting(self) -> bool:
        """Whether generators have left their devices: nobody boots or catches up."""
        return self._turns.resting

    async def rest(self) -> None:
        """Have generators leave their devices until the next push, where they have to."""
        async with self._lock:
            await self._turns.rest(self.engaged)

    async def publish(self) -> PushReport:
        """Push the trainer's current weights as the next version to all who can take them.

        Generators that fail are restarted by whoever watches the fleet, and the push is
        repeated with the others under a new number.

        Raises:
            WeightPushError: refused in every attempt; every reachable generator is back on
                its old version and the version numbers are spent.
            GroupLost: the trainer is gone.
        """
        async with self._lock:
            start_s, self._num_differed = self._clock(), 0
            for attempt in range(1, self._cfg.attempts + 1):
                ticket = await self._turns.participants(self.engaged)
                version = self.last_version = self.last_version + 1
                self.engaged = set(ticket)
                try:
                    return await self._push(version, ticket, start_s)
                except GroupLost:
                    if not self.resting:  # else none of them has begun
                        await self._abort(version, ticket, Refused({}))
                    raise
                except Refused as refusal:
                    log.warning("push of version %d was refused: %s", version, refusal)
                    await self._abort(version, ticket, refusal)
                    for name, error in refusal.useless(again=attempt > 1).items():
                        self._fleet.died(name, incarnation=ticket[name], reason=str(error))
                    if attempt == self._cfg.attempts:
                        raise WeightPushError(
                            f"push of version {version} was refused, {attempt} attempts: {refusal}"
                        ) from refusal
                finally:
                    self.engaged = set()
        raise AssertionError("unreachable: the last attempt raises")

    async def catch_up(self, name: str) -> bool:
        """Bring one generator to the newest committed version, while the others serve.

        Returns:
            Whether this made it serve; False when there is no such version yet, when it failed,
            or when a push of everyone came first.

        Raises:
            GroupLost: the trainer was needed and is gone.
        """
        async with self._lock:
            ticket = {n: i for n, i in self._fleet.syncable().items() if n == name}
            if self._served is None or not ticket or self.resting:
                return False
            if name not in self._fleet.stale():
                return False  # a push of everyone came first
            served = self._served
            self.engaged = {name}
            try:
                return await self._catch_up(name, ticket, served)
            except GroupLost as error:
                if self._served is served:  # else the loop knows
                    self._lost.append(error)
                    self._found_lost.set()
                await self._abort(served.version, ticket, Refused({}))
                raise
            finally:
                self.engaged = set()

    async def _catch_up(self, name: str, ticket: Mapping[str, int], served: _Served) -> bool:
        locator = served.locator
        try:
            if not locator.reaches(self._seats[name]):
                again = await self._announced_again(ticket)
                if again is None or again.manifest["version"] != served.version:
                    return False  # a later one was refused, or is trained: it waits for the next
                locator = again
            await self._transfer(
                served.version,
                locator,
                ticket,
                send=None if locator.repeatable else partial(self._send_again, served),
            )
            await self._compare(served.probe, ticket)
            if served.kernels:
                await self._compare_kernels(ticket, right=served.kernels)
            await self._commit(served.version, ticket)
        except Refused as refusal:
            log.warning("%s could not catch up: %s", name, refusal)
            moved_on = False
            try:
                if self._served is served and not refusal.useless(again=False):
                    # The generator answered, so it is alive and the payload may be gone. Announcing
                    # it again replaces it, or raises GroupLost if the trainer is gone.
                    moved_on = await self._announced_again(ticket) is None
            finally:
                if not moved_on:
                    self._fleet.died(name, incarnation=ticket[name], reason=str(refusal))
            if moved_on:  # nobody here is to blame
                await self._abort(served.version, ticket, refusal)
            return False
        return True

    async def _announced_again(self, ticket: Mapping[str, int]) -> Locator | None:
        """Return where the newest payload is for those who come late; None: nowhere."""
        try:
            return await self._publisher.announce_again(seats=self._of(ticket))
        except WeightPushError as error:  # the trainer's host has no room now
            log.warning("%s cannot catch up yet: %s", ", ".join(ticket), error)
            return None

    async def trainer_lost(self) -> GroupLost:
        """Return how a catch-up found out that the trainer is gone.

        Whoever waits for generators has to know: they may be waiting for the trainer.
        """
        await self._found_lost.wait()
        return self._lost[-1]

    @property
    def has_served(self) -> bool:
        """Whether there is a version that a generator can catch up with."""
        return self._served is not None and not self.resting

    def forget_served(self) -> None:
        """The payload of the newest version is gone, with the trainer that held it."""
        self._served = None
        self._found_lost.clear()

    async def _push(self, version: int, ticket: Mapping[str, int], start_s: float) -> PushReport:
        staging_s = self._clock()
        stage = self._publisher.stage(version, seats=self._of(ticket))
        locator: Locator = await self._trainer(stage, "stage")
        staged_s = self._clock()
        try:
            # Before generators begin: on a shared CPU two at once take far longer than twice one,
            # and on a shared GPU only one of both has its weights there.
            truth = await self._trainer(self._publisher.probe_logprobs(self._probe), "probe")
            if not locator.live:  # else it is needed until all is sent
                await self._trainer(self._turns.resume(), "sleep")
            begun_s = self._clock()
            merge_error = await self._transfer(version, locator, ticket, send=self._send)
            loaded_s = self._clock()
            mean_diff, max_diff = await self._compare(truth, ticket)
            probed_s = self._clock()
            every = self._cfg.compare_every
            due = every is not None and len(ticket) > 1 and self._num_pushed % every == 0
            kernels = await self._compare_kernels(ticket) if due else {}
            compared_s = self._clock()
        except BaseException:
            await self._release(version)
            raise
        served = _Served(version=version, locator=locator, probe=truth, kernels=kernels)
        before, self._served = self._served, served
        self._num_pushed += 1
        await self._commit(version, ticket)
        if before is not None:
            await self._release(before.version)
        return PushReport(
            version=version,
            size_bytes=sum(e["size_bytes"] for e in locator.manifest["entries"]),
            push_s=self._clock() - start_s,
            stage_s=staged_s - staging_s,
            load_s=loaded_s - begun_s,
            probe_s=begun_s - staged_s + probed_s - loaded_s,
            probe_logprob_diff_mean=mean_diff,
            probe_logprob_diff_max=max_diff,
            merge_error=merge_error,
            compared=len(ticket) if kernels else 0,
            compare_s=compared_s - probed_s,
            differed=self._num_differed,
        )

    async def _transfer(
        self,
        version: int,
        locator: Locator,
        ticket: Mapping[str, int],
        *,
        send: Callable[[float], Awaitable[float | None]] | None,
    ) -> float | None:
        ranks = itertools.accumulate((seat.num_workers for seat in self._of(ticket)), initial=1)
        first_rank = dict(zip(ticket, ranks, strict=False))
        await self._each(ticket, lambda name, r: r.begin_push(version), "begin")
        # Peers of a joint transfer give up before: they know who delays it.
        timeout_s = self._cfg.timeout_s * (1 if locator.repeatable else BUS_PHASES)
        receiving = asyncio.ensure_future(
            self._each(
                ticket,
                lambda name, r: r.receive(locator, first_rank=first_rank[name]),
                "transfer",
                timeout_s=timeout_s,
            )
        )
        receiving.add_done_callback(noticed)
        refused = merge_error = None
        try:
            if send is not None:
                try:
                    merge_error = await send(timeout_s)
                except WeightPushError as error:  # the receivers know who failed
                    refused = error
            await receiving
            if refused is not None:
                raise Refused(dict.fromkeys(ticket, PushEnded(str(refused))))
        finally:
            receiving.cancel()
        if locator.live:
            await self._trainer(self._turns.resume(), "sleep")
        await self._each(ticket, lambda name, r: r.load(version), "load")
        return merge_error

    async def _send(self, timeout_s: float) -> float | None:
        answer = self._trainer(self._publisher.send(), "transfer", timeout_s=timeout_s)
        merge_error: float | None = await answer
        return merge_error

    async def _send_again(self, served: _Served, timeout_s: float) -> float | None:
        """Send for one that catches up: after the step the trainer may be in."""
        if self._served is not served:
            raise GroupLost(f"{TRAINER} was replaced since version {served.version}")
        return await self._send(self._cfg.busy_s + timeout_s)

    async def _compare(
        self, truth: list[list[float]], ticket: Mapping[str, int]
    ) -> tuple[float, float]:
        answers = await self._each(ticket, lambda name, r: r.logprobs(self._probe), "probe")
        return worst_difference(answers, truth, cfg=self._cfg)

    async def _compare_kernels(
        self, ticket: Mapping[str, int], *, right: Agreed | None = None
    ) -> Agreed:
        """Refuse engines whose kernels differ from the others', or from what all agreed on."""
        digests = await self._each(ticket, lambda name, r: r.kernel_digest(), "comparison")
        wrong = differing(digests, right=right or {})
        if wrong:
            self._num_differed += len(wrong)
            raise Refused({n: WeightPushError(f"its kernels {how}") for n, how in wrong.items()})
        return agreed(digests)

    async def _commit(self, version: int, ticket: Mapping[str, int]) -> None:
        """Everyone agreed: whoever fails now is restarted, the version stands."""
        failures: dict[str, Exception] = {}
        try:
            await self._each(ticket, lambda name, r: r.commit_push(version), "commit")
        except Refused as refusal:
            failures = dict(refusal.failures)
        for name, incarnation in ticket.items():
            if name in failures:
                self._fleet.died(name, incarnation=incarnation, reason=str(failures[name]))
            else:
                self._fleet.synced(name, incarnation=incarnation, version=version)
        if version == self.last_version:
            for name in self._fleet.behind(version):
                self._fleet.out_of_sync(name)

    async def _abort(self, version: int, ticket: Mapping[str, int], cause: Refused) -> None:
        gone = cause.useless(again=False)
        reachable = {name: ticket[name] for name in ticket if name not in gone}
        try:
            await self._each(reachable, lambda name, r: r.abort_push(version), "abort")
        except Refused as refusal:
            for name, error in refusal.failures.items():
                if isinstance(error, WeightPushError):
                    # It has nothing to go back to: what it served was overwritten, or it never
                    # served. The next push, or a catch-up, brings it up to date.
                    self._fleet.out_of_sync(name)
                    continue
                self._fleet.died(
                    name,
                    incarnation=ticket[name],
                    reason=f"could not go back to the old weights: {error}",
                )

    def _of(self, ticket: Mapping[str, int]) -> list[Seat]:
        """Return the seats of who takes part, in the order of ranks."""
        return [self._seats[name] for name in ticket]

    async def _release(self, version: int) -> None:
        try:
            await self._trainer(self._publisher.release(version), "release")
        except InfrastructureError as error:
            log.warning("the payload of version %d was not released: %s", version, error)

    async def _trainer(
        self, call: Awaitable[Any], phase: str, *, timeout_s: float | None = None
    ) -> Any:
        timeout_s = timeout_s or self._cfg.timeout_s
        try:
            return await asyncio.wait_for(call, timeout_s)
        except TimeoutError as error:
            raise GroupLost(f"{TRAINER} did not finish {phase} in {timeout_s:g} s") from error

    async def _each(
        self, ticket: Mapping[str, int], call: Verb, phase: str, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Have all participants do one phase; see ``phase.ask_all``."""
        timeout_s = timeout_s or self._cfg.timeout_s
        return await ask_all(ticket, self._receivers, call, phase=phase, timeout_s=timeout_s)
