"""The invariants of docs/architecture, checked from the outside while a run goes on.

Owns an account of its own of every prompt, version and step, made of what the simulated parts
see; compares it with what the real controller says. Refuses to own faults. What it finds
first ends the run at the next turn of the loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation import toy
from simulation.toy import Weights

from rlpost.checkpoint.state import read_json
from rlpost.control.fleet import Health
from rlpost.control.staleness import OnOverage
from rlpost.rollout.producer import INFRASTRUCTURE, STALE, Batch
from rlpost.types import Group, Trajectory


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint of a step has to bring back."""

    weights: dict[str, Weights]
    accounts: dict[str, str]
    cursor: dict[str, Any]
    ready: tuple[str, ...]


class Checker:
    """Example::

    checker.admitted("0:3")
    checker.look()
    assert checker.violation is None
    """

    def __init__(self, world: Any) -> None:
        self._world = world
        self.violation: str | None = None
        self.published: dict[int, Weights] = {0: toy.FIRST}
        self.decided: set[int] = set()  # versions that the bus decided to commit
        self.weights_after: list[Weights] = [toy.FIRST]  # by completed steps
        self.trained_on: dict[int, list[Any]] = {}  # step -> what it consumed
        self.accounts: dict[str, str] = {}  # uid -> outstanding | consumed | dropped <reason>
        self.snapshots: dict[int, Snapshot] = {}
        self.costs: dict[str, float] = {}  # as they were reported last
        self.longest_gap_s = 0.0
        self._last_step_s = 0.0
        self._staged_in_life = 0
        self._batch: Batch | None = None
        self._unpushed = 0  # prompts consumed since the last push
        self._alone: dict[str, bool] = {}  # request's key -> last attempt ran alone
        self._whole = False  # this life's driver has taken up its state

    def fail(self, message: str) -> None:
        """Note the first violation."""
        if self.violation is None and not self._world.severed:
            self.violation = message
            self._world.log(f"VIOLATION {message}")

    def expect(self, condition: bool, message: Any) -> None:
        if not condition:
            self.fail(str(message))

    # -- a driver's life --------------------------------------------------------------------

    def born(self) -> None:
        """A new driver has built its parts."""
        self._staged_in_life = self._unpushed = 0
        self._whole = False
        self._batch = None
        self._alone.clear()
        self._last_step_s = self._world.now_s
        if not self.snapshots:
            self.snapshots[0] = self._snapshot()

    def _snapshot(self) -> Snapshot:
        parts = self._world.parts
        return Snapshot(
            weights={name: group.body.weights for name, group in parts.run.trained.items()},
            accounts=dict(self.accounts),
            cursor=parts.cursor.state_dict(),
            ready=tuple(entry.uid for entry in parts.producer.ready()),
        )

    def step_done(self, step: int) -> None:
        """The driver finished a whole step: this is what a checkpoint of it holds."""
        self.snapshots[step] = self._snapshot()
        now_s = self._world.now_s
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_step_s)
        self._last_step_s = now_s

    def reported(self, metrics: Mapping[str, float]) -> None:
        """The driver tells what the run has cost: in whichever life, a sum never falls."""
        for name, amount in metrics.items():
            if name.startswith("cost/"):
                self.expect(amount >= self.costs.get(name, 0.0), f"{name} fell to {amount}")
                self.costs[name] = amount

    def committing(self, step: int, scratch: Path) -> None:
        """A checkpoint is about to get its name: everything in it is of that step."""
        state = read_json(scratch / "driver.json")
        self.expect(state["step"] == step, f"checkpoint of {step} holds {state['step']}")
        wanted = self.snapshots[step].weights
        for name, weights in wanted.items():
            saved = tuple(read_json(scratch / name / "state.json")["weights"])
            self.expect(saved == weights, f"checkpoint of step {step}: {name} is of another step")

    def restored(self, step: int) -> None:
        """The driver says that everything is as it was at ``step``."""
        parts, disk = self._world.parts, self._world.disk
        newest = disk.newest_step
        self.expect(step == newest, f"went on from step {step}, the newest saved is {newest}")
        then = self.snapshots[step]
        del self.weights_after[step + 1 :]
        self.trained_on = {s: t for s, t in self.trained_on.items() if s <= step}
        self.accounts = dict(then.accounts)
        self._unpushed = 0
        self._whole = True
        now = self._snapshot()
        self.expect(now.weights == then.weights, f"weights differ from those after step {step}")
        self.expect(now.cursor == then.cursor, f"cursor {now.cursor}, at {step} {then.cursor}")
        self.expect(now.ready == then.ready, f"ready {now.ready}, at {step} {then.ready}")
        self.expect(
            now.weights["trainer"] == self.weights_after[step], "the account of weights is off"
        )
        consumed = sum(state == "consumed" for state in self.accounts.values())
        counts = parts.ledger.counts
        self.expect(counts.consumed == consumed, f"{counts}, expected {consumed} consumed")
        self.look()

    def replaced(self, *kinds: str) -> None:
        """A process is thrown away: one of these kinds must have given reason to."""
        injected = self._world.faults.injected
        guilty = any(fault.startswith(kinds) for fault in injected)
        self.expect(guilty, f"{kinds[0]} is replaced, and only {dict(injected)} happened")

    # -- prompts ----------------------------------------------------------------------------

    def admitted(self, uid: str) -> None:
        self.expect(uid not in self.accounts, f"{uid} is admitted again")
        self.accounts[uid] = "outstanding"

    def ended(self, uid: str, how: str) -> None:
        self.expect(self.accounts.get(uid) == "outstanding", f"{uid}: {how}, but it is not open")
        self.accounts[uid] = how
        scenario = self._world.scenario
        if how == f"dropped {STALE}":
            self.expect(scenario.on_overage is not OnOverage.wait, f"{uid} dropped under wait")
        if how == f"dropped {INFRASTRUCTURE}":
            alone = self._alone.get(f"train/{uid}", False)
            self.expect(alone, f"{uid} was given up before it failed alone")
        if how == "consumed":
            self._unpushed += 1

    def request_sent(self, key: str, *, alone: bool, used: int) -> None:
        """The dispatcher chose a generator, which now has ``used`` requests."""
        self._alone[key] = alone
        if alone:
            self.expect(used == 1, f"{key} should run alone, beside {used - 1} others")

    def batch(self, batch: Batch) -> None:
        """The step trains on this."""
        self._batch = batch
        scenario = self._world.scenario
        size = len(batch.groups)
        self.expect(
            size == scenario.batch or (scenario.dynamic and size < scenario.batch),
            f"a batch of {size} groups",
        )
        for group in batch.sampled:
            for trajectory in group.trajectories:
                self._sampled_truly(trajectory)
        for group in batch.groups:
            uid = group.prompt.uid
            self.expect(self.accounts.get(uid) == "outstanding", f"{uid} is trained on, not open")
            for trajectory in group.trajectories:
                self._sampled_truly(trajectory)
                self._in_time(trajectory)
        self.look()

    def trained(self, step: int) -> None:
        """The step's updates are done."""
        assert self._batch is not None
        self.expect(step == len(self.weights_after), f"step {step} comes out of turn")
        self.weights_after.append(self._world.parts.trainer.body.weights)
        self.trained_on[step] = [_identity(group) for group in self._batch.groups]
        for group in self._batch.groups:
            state = self.accounts.get(group.prompt.uid)
            self.expect(state == "consumed", f"{group.prompt.uid} was trained on: {state}")
        self._world.point("trained")

    # -- versions ---------------------------------------------------------------------------

    def staged(self, version: int, weights: Weights) -> None:
        """The trainer wrote a payload."""
        newest = max(self._staged_in_life, self._world.restored_version)
        self.expect(version > newest, f"version {version} after {newest}")
        self._staged_in_life = version
        self.published[version] = weights

    def committed(self, version: int, step: int) -> None:
        """The driver says that everyone who serves holds the weights after ``step``."""
        self._unpushed = 0
        self._note_decision()
        self.expect(step == len(self.weights_after) - 1, f"committed step {step} out of turn")
        self.expect(version in self.decided, f"version {version} was never committed")
        self.expect(
            self.published.get(version) == self.weights_after[-1],
            f"version {version} does not hold the weights after step {step}",
        )
        for member in self._world.parts.fleet.members.values():
            if member.health is Health.healthy:
                self.expect(member.version == version, f"serves another version: {member}")

    def _note_decision(self) -> None:
        served = self._world.parts.bus._served
        if served is not None:
            self.decided.add(served.version)

    def request_started(self, name: str, request: Any, engine: Any) -> None:
        """An engine begins to sample."""
        self._note_decision()
        version = engine._version
        self.expect(version in self.decided, f"{name} serves {version}, which is not committed")
        self.expect(
            engine._weights == self.published.get(version), f"{name} does not hold {version}"
        )

    def _sampled_truly(self, trajectory: Trajectory) -> None:
        where, end = f"{trajectory.uid}/{trajectory.sample}", 0
        last_version = -1
        for span in trajectory.spans:
            self.expect(span.start == end < span.end, f"{where}: {trajectory.spans}")
            self.expect(span.version > last_version, f"{where}: {trajectory.spans}")
            self.expect(span.version in self.decided, f"{where}: {span} was never committed")
            end, last_version = span.end, span.version
            weights = self.published.get(span.version)
            if weights is None:
                return
            for place in range(span.start, span.end):
                if place in range(*trajectory.written):
                    continue
                before = ([trajectory.prompt_ids[-1], *trajectory.response_ids])[place]
                truth = toy.logprob(weights, before, trajectory.response_ids[place])
                if truth != trajectory.rollout_logprobs[place]:
                    self.fail(f"{where}: token {place} was not sampled by version {span.version}")
        self.expect(end == len(trajectory.response_ids), f"{where}: {trajectory.spans}")
        longest = self._world.scenario.max_tokens
        self.expect(end <= longest, f"{where}: {end} tokens, {longest} allowed")

    def _in_time(self, trajectory: Trajectory) -> None:
        bound = self._world.scenario.max_staleness
        for span in trajectory.spans:
            lag = self._lag(self.published[span.version])
            old = lag is None or lag > bound
            if span.end <= trajectory.num_stale:
                self.expect(old or span is not trajectory.spans[0], f"masked in vain: {trajectory}")
            else:
                self.expect(
                    not old,
                    f"{trajectory.uid}: lag {lag} of {span} at step {len(self.weights_after)}",
                )

    def _lag(self, weights: Weights) -> int | None:
        for lag, then in enumerate(reversed(self.weights_after)):
            if then == weights:
                return lag
        return None

    # -- at any time ------------------------------------------------------------------------

    def look(self) -> None:
        """What holds between any two turns of the loop."""
        parts, scenario = self._world.parts, self._world.scenario
        if parts is None or not self._whole:
            return
        buffer = parts.producer._buffer
        here = {e.uid for e in (*buffer.running, *buffer.ready)}
        here |= set(parts.producer._again)
        # Those of a step whose weights are not pushed yet are consumed, and count as room taken.
        here |= {e.uid for e in buffer.training if self.accounts.get(e.uid) != "consumed"}
        outstanding = parts.ledger.outstanding()
        self.expect(
            here == set(outstanding),
            f"the ledger has {sorted(outstanding)}, the producer {sorted(here)}",
        )
        self.expect(parts.ledger.balanced(), f"unbalanced: {parts.ledger.counts}")
        open_ = sorted(uid for uid, state in self.accounts.items() if state == "outstanding")
        self.expect(open_ == sorted(outstanding), f"open {open_}, ledger {outstanding}")
        room = (scenario.max_staleness + 1) * scenario.batch
        room += round(scenario.oversample * scenario.batch)
        under_way = len(outstanding) + self._unpushed
        self.expect(under_way <= room, f"{under_way} prompts under way, room for {room}")
        self._note_decision()

    def finished(self, dispatcher: Any) -> None:
        """The loop has ended; nobody was closed yet."""
        self.look()
        used = {name: permits.used for name, permits in dispatcher._permits.items()}
        self.expect(not any(used.values()), f"permits were not given back: {used}")
        self.expect(not dispatcher._where, f"requests go on: {dispatcher._where}")
        self.expect(not dispatcher._closed_for_one, f"closed: {dispatcher._closed_for_one}")
        for name, process in self._world.engines.items():
            if process.alive and process._hangs_until_s <= self._world.now_s:
                left = [r.request.key for r in process.body.requests if not r.aborted]
                left = [key for key in left if key.startswith("train/")]
                if left and not self._world.faults.injected:
                    self.fail(f"{name} still generates {left}")


def _identity(group: Group) -> Any:
    return (group.prompt.uid, [(t.seed, t.response_ids) for t in group.trajectories])
