"""The invariants of docs/architecture, checked from the outside while a run goes on.

Owns an account of its own of every prompt, version and step, made of what the simulated parts
see; compares it with what the real controller says. Refuses to own faults. What it finds
first ends the run at the next turn of the loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from episodes import sampled_places
from simulation import toy
from simulation.toy import Weights

from rlpost.checkpoint.state import read_json
from rlpost.control.fleet import Health
from rlpost.control.staleness import OnOverage
from rlpost.rollout.producer import INFRASTRUCTURE, STALE, Batch
from rlpost.stages.rl.units import numbered
from rlpost.training.packing.pack import Packed
from rlpost.types import Episode, Group


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

    def takes_device(self, name: str, *, others: Mapping[str, Any]) -> None:
        """Who trains and who generates are never on their device together, if they take turns."""
        if self._world.scenario.turns:
            there = [n for n, process in others.items() if process.alive and process.body.on_device]
            self.expect(not there, f"{name} comes to its device, and {there} did not leave")

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
            cursor=parts.sampling.cursor.state_dict(),
            ready=tuple(entry.uid for entry in parts.sampling.producer.ready()),
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
        if self._world.scenario.turns and step == newest - 1:
            step = newest  # its weights were not pushed yet
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
        counts = parts.sampling.ledger.counts
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
            for episode in group.episodes:
                self._sampled_truly(episode)
        for group in batch.groups:
            uid = group.prompt.uid
            self.expect(self.accounts.get(uid) == "outstanding", f"{uid} is trained on, not open")
            for episode in group.episodes:
                self._in_time(episode, batch.oldest_version)
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
        for member in self._world.parts.sampling.fleet.members.values():
            if member.health is Health.healthy:
                self.expect(member.version == version, f"serves another version: {member}")

    def _note_decision(self) -> None:
        served = self._world.parts.sampling.bus._served
        if served is not None:
            self.decided.add(served.version)

    def request_started(self, name: str, engine: Any) -> None:
        """An engine begins to sample."""
        self._note_decision()
        version, weights = engine.serves
        self.expect(version in self.decided, f"{name} serves {version}, which is not committed")
        self.expect(weights == self.published.get(version), f"{name} does not hold {version}")

    def _sampled_truly(self, episode: Episode) -> None:
        """Spans cover exactly what an engine sampled: all but the phrase of an interruption."""
        where = f"{episode.uid}/{episode.sample}"
        (trajectory,) = episode.trajectories
        ids = [trajectory.prompt_ids[-1], *trajectory.response_ids]
        said, end, observed = iter(trajectory.rollout_logprobs), 0, []
        for span in trajectory.spans:
            self.expect(span.version in self.decided, f"{where}: {span} was never committed")
            weights = self.published.get(span.version)
            if weights is None:
                return
            for place in range(span.start, span.end):
                if next(said) != toy.logprob(weights, ids[place], ids[place + 1]):
                    self.fail(f"{where}: token {place} was not sampled by version {span.version}")
            observed += range(end, span.start)
            end = span.end
        written = [self._world.scenario.interrupt_after] if episode.interrupted else []
        self.expect(
            observed == written, f"{where}: {trajectory.spans} of a response with {written}"
        )
        longest, num_tokens = self._world.scenario.max_tokens, len(trajectory.response_ids)
        self.expect(
            end == num_tokens <= longest, f"{where}: {num_tokens} tokens, {longest} allowed"
        )

    def _in_time(self, episode: Episode, oldest_version: int) -> None:
        scenario = self._world.scenario
        for version in episode.versions:
            lag = self._lag(self.published[version])
            old, masked = lag is None or lag > scenario.max_staleness, version < oldest_version
            step = len(self.weights_after)
            self.expect(old == masked, f"{episode.uid}: lag {lag} of {version} at step {step}")
            if scenario.on_overage is not OnOverage.mask:
                self.expect(not masked, f"{episode.uid}: {version} is consumed too late")

    def trains(self, packed: Packed) -> None:
        """A trainer computes gradients: what carries a loss was sampled, and is not too old."""
        assert self._batch is not None
        if self._world.scenario.online:
            return self._trains_pairs(packed)
        rows = {each.number: each.trajectory for each in numbered(self._batch.groups)}
        weights, targets = (
            packed.column("weight_R"),
            packed.by_item([[batch.target_R for batch in mine] for mine in packed.batches]),
        )
        for number, target_R in targets.items():
            row = rows[number]
            sampled = [row.response_ids[place] for place in sampled_places(row)]
            self.expect(target_R.tolist() == sampled, f"{target_R} carry a loss, not {sampled}")
            young = [
                span.version >= self._batch.oldest_version
                for span in row.spans
                for _ in range(span.start, span.end)
            ]
            self.expect((weights[number] > 0).tolist() == young, f"{row} weighs {weights[number]}")

    def _trains_pairs(self, packed: Packed) -> None:
        """Of each group a best response is compared with a worst one, and each pair counts."""
        targets = packed.by_item([[batch.target_R for batch in mine] for mine in packed.batches])
        groups = self._batch.groups
        self.expect(sorted(targets) == list(range(2 * len(groups))), f"{len(targets)} responses")
        for place, group in enumerate(groups):
            ends = []
            for number in (2 * place, 2 * place + 1):
                said = targets[number].tolist()
                same = [e.reward for e in group.episodes if _sampled(e) == said]
                self.expect(same, f"{said} is no response of {group.prompt.uid}")
                ends.append(same[0] if same else None)
            earned = [reward for reward in group.rewards if reward is not None]
            self.expect(ends == [max(earned), min(earned)], f"{ends} of {earned}")
            self.expect(max(earned) > min(earned), f"a tie is learned: {earned}")

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
        buffer = parts.sampling.producer._buffer
        here = {e.uid for e in (*buffer.running, *buffer.ready)}
        here |= set(parts.sampling.producer._again)
        # Those of a step whose weights are not pushed yet are consumed, and count as room taken.
        here |= {e.uid for e in buffer.training if self.accounts.get(e.uid) != "consumed"}
        outstanding = parts.sampling.ledger.outstanding()
        self.expect(
            here == set(outstanding),
            f"the ledger has {sorted(outstanding)}, the producer {sorted(here)}",
        )
        self.expect(parts.sampling.ledger.balanced(), f"unbalanced: {parts.sampling.ledger.counts}")
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
    return (group.prompt.uid, [(e.seed, e.response_ids) for e in group.episodes])


def _sampled(episode: Episode) -> list[int]:
    (trajectory,) = episode.trajectories
    return [trajectory.response_ids[place] for place in sampled_places(trajectory)]
