"""Keeps the generators busy within the bound on staleness, and assembles batches.

Owns the tasks of all groups in progress and the order of admit -> run -> ready -> train.
Refuses to own the decisions (control/) and one group's generation (collector.py). The same
code serves on-policy training (``max_staleness=0``) and asynchronous training. Invariants: a
prompt is admitted to the ledger when its group starts here, and ends when its step is done or
it is dropped; the outstanding prompts of the ledger are exactly the groups here; between the
assembly of a batch and the push of its step, no more groups are admitted than the bound allows.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rlpost.control.buffer import GroupBuffer, Ready
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import OnOverage, Staleness
from rlpost.errors import InfrastructureError
from rlpost.rollout.collector import Collected, Collector
from rlpost.rollout.signal import Signal
from rlpost.types import Group, Prompt, SamplingConfig

log = logging.getLogger(__name__)

NO_GRADIENT, STALE, INFRASTRUCTURE = "no_gradient", "stale", "infrastructure"


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A group that no step trains on, and the mean length of its responses (0: unknown)."""

    reason: str
    mean_tokens: float


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The groups that one step trains on, and how long it took to get them.

    ``oldest_version`` is that of the oldest weights whose tokens may still be trained on.
    """

    groups: tuple[Group, ...]
    sampled: tuple[Group, ...]  # these, and finished groups dropped since the last batch
    lags: tuple[int, ...]  # steps, per group
    oldest_version: int
    dropped: tuple[Dropped, ...]  # since the last batch
    generation_s: float  # time that the step waited for responses
    verification_s: float  # time that it then waited for verdicts
    idle_s: float  # time since the last batch in which no generator had work


@dataclass(kw_only=True)
class _Since:
    """What happened since the last batch."""

    start_s: float
    drawn: int = 0
    unused: list[Group] = field(default_factory=list)  # finished, then dropped
    dropped: list[Dropped] = field(default_factory=list)
    idle_s: float = 0.0
    generated_s: float = 0.0  # time at which the last response arrived


@dataclass(frozen=True, kw_only=True)
class PromptStream:
    """Where prompts come from and how they are sampled.

    ``draw`` gives the next prompt; ``find`` rebuilds one by uid; ``useful`` says of every
    finished group whether to train on it; ``max_draws`` bounds the draws of one step. ``answers``
    says of a prompt whether it is answered at all: else its group has no episodes.
    """

    draw: Callable[[], Prompt]
    find: Callable[[str], Prompt]
    useful: Callable[[Group], bool]
    max_draws: int | None
    num_samples: int
    sampling: SamplingConfig
    seed: int
    answers: Callable[[Prompt], bool] = lambda prompt: True


class Producer:
    """Example::

    batch = await producer.next_batch()
    ...                                        # train, push version 8
    producer.trained(step=7)
    producer.committed(version=8, step=7)
    """

    def __init__(
        self,
        source: PromptStream,
        *,
        collector: Collector,
        ledger: Ledger,
        staleness: Staleness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._collector = collector
        self._ledger = ledger
        self._staleness = staleness
        self._clock = clock
        self._buffer: GroupBuffer[Group] = GroupBuffer(
            capacity=staleness.admissible(running=0, ready=0, training=0)
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._measuring: set[asyncio.Task[None]] = set()
        self._again: deque[str] = deque()  # outstanding prompts of a checkpoint, to start again
        self._since = _Since(start_s=clock())
        self._idle_from: float | None = clock()
        self._changed = Signal()
        self._failure: BaseException | None = None
        self._version = 0  # newest committed
        self._asked = False  # a step waits for its batch
        self._open = True  # groups may start

    # -- called by the loop -------------------------------------------------------------------

    async def next_batch(self) -> Batch:
        """Wait until a batch is complete and return it.

        Raises:
            RunFailed: too many failures.
        """
        asked_s = self._clock()
        self._asked = True
        try:
            while True:
                if self._failure is not None:
                    raise self._failure
                self._fill()
                taken = self._staleness.cut(self._buffer.ready, self._buffer.running)
                if taken is None and self._exhausted():
                    taken = sorted(self._buffer.ready, key=lambda entry: entry.order)
                if taken is not None:
                    return self._cut(taken, asked_s)
                await self._changed.wait()
        finally:
            self._asked = False

    def trained(self, *, step: int) -> None:
        """Record that the step is done and its prompts are consumed."""
        for entry in self._buffer.training:
            self._ledger.consume(entry.uid, step)

    def committed(self, *, version: int, step: int) -> None:
        """Record that generators serve ``version``, the weights after ``step``."""
        # Until now these groups counted, because groups admitted before the push use old weights.
        self._buffer.commit()
        self._version = version
        self._staleness.committed(version=version, step=step)
        self._evict()
        self._staleness.forget_before(
            entry.version for entry in (*self._buffer.running, *self._buffer.ready)
        )
        self._fill()

    async def stop(self) -> None:
        """Cancel all running groups; ready groups stay."""
        self._open = False
        tasks = dict(self._tasks)
        given_up = [self._collector.cancel(uid) for uid in tasks]
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*given_up)
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    # -- admission --------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start as many groups as the bound allows; on-policy only while a step waits."""
        ahead = self._staleness.config.max_staleness > 0
        if not self._open or not (self._asked or ahead):
            return
        buffer = self._buffer
        room = self._staleness.admissible(
            running=len(buffer.running), ready=len(buffer.ready), training=len(buffer.training)
        )
        for _ in range(room):
            prompt = self._next_prompt()
            if prompt is None:
                break
            buffer.start(prompt.uid, version=self._version)
            self._mark_busy()
            task = asyncio.create_task(self._run(prompt), name=f"group {prompt.uid}")
            task.add_done_callback(partial(self._ended, prompt.uid))
            self._tasks[prompt.uid] = task

    def _next_prompt(self) -> Prompt | None:
        if self._again:
            return self._source.find(self._again.popleft())
        limit = self._source.max_draws
        if limit is not None and self._since.drawn >= limit:
            return None
        self._since.drawn += 1
        prompt = self._source.draw()
        self._ledger.admit(prompt.uid)
        return prompt

    def _exhausted(self) -> bool:
        """Whether the step has no draws left and nothing is running."""
        limit = self._source.max_draws
        return limit is not None and self._since.drawn >= limit and not self._buffer.running

    async def _run(self, prompt: Prompt) -> None:
        """Turn an admitted prompt into a ready or a dropped group."""
        uid, source = prompt.uid, self._source
        if not source.answers(prompt):
            now_s, group = self._clock(), Group(prompt=prompt, episodes=())
            self._finish(Collected(group=group, generated_s=now_s, judged_s=now_s))
            return
        try:
            collected = await self._collector.group(
                prompt,
                num_samples=source.num_samples,
                sampling=source.sampling,
                seed=source.seed,
                on_start=lambda version: self._buffer.restart(uid, version=version),
            )
            self._finish(collected)
        except InfrastructureError as error:
            log.warning("prompt %s is dropped: %s", uid, error)
            self._drop(uid, INFRASTRUCTURE)

    def _ended(self, uid: str, task: "asyncio.Task[None]") -> None:
        """Record the end of a task; its error is raised in ``next_batch``."""
        if self._tasks.get(uid) is task:
            del self._tasks[uid]
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        if not self._tasks:
            self._idle_from = self._clock()
        self._fill()
        self._changed.notify()

    def _finish(self, collected: Collected) -> None:
        group = collected.group
        uid = group.prompt.uid
        self._since.generated_s = max(self._since.generated_s, collected.generated_s)
        if self._source.useful(group):
            versions = (version for episode in group.episodes for version in episode.versions)
            self._buffer.finish(uid, group, version=min(versions, default=self._version))
        else:
            self._since.unused.append(group)
            self._drop(uid, NO_GRADIENT, group)

    def _drop(self, uid: str, reason: str, group: Group | None = None) -> None:
        lengths = [episode.num_sampled for episode in group.episodes] if group else []
        self._ledger.drop(uid, reason)
        self._buffer.discard(uid)
        mean_tokens = sum(lengths) / len(lengths) if lengths else 0.0
        self._since.dropped.append(Dropped(reason=reason, mean_tokens=mean_tokens))

    def _mark_busy(self) -> None:
        if self._idle_from is not None:
            self._since.idle_s += self._clock() - max(self._idle_from, self._since.start_s)
            self._idle_from = None

    # -- age --------------------------------------------------------------------------------

    def _evict(self) -> None:
        """Drop groups that have become too old; with ``on_overage=wait`` there are none."""
        if self._failure is not None:  # the run ends, and the failed group is still in the buffer
            return
        for entry in self._buffer.ready:
            if self._staleness.too_old(entry):
                self._since.unused.append(entry.group)
                self._drop(entry.uid, STALE, entry.group)
        for running in self._buffer.running:
            if self._staleness.too_old(running):
                given_up = self._collector.cancel(running.uid)
                self._tasks.pop(running.uid).cancel()
                self._drop(running.uid, STALE)
                measuring = self._measure(given_up, len(self._since.dropped) - 1)
                task = asyncio.create_task(measuring)
                self._measuring.add(task)
                task.add_done_callback(self._measuring.discard)

    async def _measure(self, given_up: Awaitable[list[int]], index: int) -> None:
        """Add the length of its cancelled responses to the record of a dropped group."""
        dropped = self._since.dropped
        lengths = await given_up
        if lengths:
            dropped[index] = replace(dropped[index], mean_tokens=sum(lengths) / len(lengths))

    # -- batches ----------------------------------------------------------------------------

    def _cut(self, taken: Iterable[Any], asked_s: float) -> Batch:
        entries = list(taken)
        since, now_s = self._since, self._clock()
        lags = tuple(self._staleness.lag(entry.version) for entry in entries)
        groups = self._buffer.reserve(entry.uid for entry in entries)
        if self._staleness.config.on_overage is not OnOverage.mask:
            assert all(lag <= self._staleness.config.max_staleness for lag in lags), lags
        if self._idle_from is not None:
            since.idle_s += now_s - max(self._idle_from, since.start_s)
        self._since = _Since(start_s=now_s)
        generated_s = min(max(since.generated_s, asked_s), now_s)
        return Batch(
            groups=tuple(groups),
            sampled=tuple(sorted([*groups, *since.unused], key=_uid_order)),
            lags=lags,
            oldest_version=self._staleness.oldest_version(),
            dropped=tuple(since.dropped),
            generation_s=generated_s - asked_s,
            verification_s=now_s - generated_s,
            idle_s=since.idle_s,
        )

    # -- state ------------------------------------------------------------------------------

    def ready(self) -> tuple[Ready[Group], ...]:
        """Return what a checkpoint keeps: finished groups that no step has taken."""
        return tuple(self._buffer.ready)

    def restore(
        self, ready: Iterable[Ready[Group]], *, staleness: Mapping[str, Any], version: int
    ) -> None:
        """Continue from a checkpoint, after the ledger was restored and while nothing runs.

        Outstanding prompts that are not among ``ready`` start again.
        """
        assert not self._tasks, "stop first"
        self._buffer.restore(ready)
        self._staleness.load_state_dict(staleness)
        self._version = version
        self._again = deque(uid for uid in self._ledger.outstanding() if uid not in self._buffer)
        self._since = _Since(start_s=self._clock())
        self._failure = None
        self._open = True

    def describe(self) -> str:
        """Return one line for logs and dumps."""
        buffer = self._buffer
        return (
            f"{len(buffer.running)} groups running, {len(buffer.ready)} ready, "
            f"{len(buffer.training)} in training, step {self._staleness.step}, "
            f"version {self._version}"
        )


def _uid_order(group: Group) -> tuple[int, ...]:
    return tuple(int(part) for part in group.prompt.uid.split(":"))
