"""A whole run under faults: driver after driver until it is done, in virtual time.

Owns the lives of drivers, the clock's faults and the result. The same scenario gives the
same run, event by event.
"""

import asyncio
import random
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.checker import Checker
from simulation.disk import Disk, never_cut
from simulation.driver import PUSH_TIMEOUT_S, drive
from simulation.payloads import Payloads
from simulation.process import Faults, Process
from simulation.scenario import Scenario
from simulation.virtual_time import Stopped, TooLong, VirtualLoop

from rlpost.errors import InfrastructureError, NothingLearned, RunFailed
from rlpost.tracking.tracker import RunStatus
from rlpost.types import GenerationRequest

MAX_LIVES = 12
MAX_S = 4000.0  # of virtual time, over all lives
MAX_GAP_S = 500.0  # between two finished steps of one life
LOOK_EVERY = 19  # turns
PROCESSES = ("generator ", "trainer.", "critic.", "verifier ")


@dataclass(frozen=True)
class Limits:
    """Deadlines of calls, in seconds."""

    setup_s: float = 30.0
    request_s: float = 60.0
    call_s: float = 50.0
    judge_s: float = 10.0
    ping_s: float = 4.0
    short_s: float = 5.0


@dataclass
class Result:
    """How a simulated run ended."""

    scenario: Scenario
    outcome: str = ""  # done, or why not
    violation: str | None = None
    lives: int = 0
    seconds: float = 0.0  # virtual
    turns: int = 0
    gap_s: float = 0.0
    trained_on: dict[int, Any] = field(default_factory=dict)
    weights: Any = None
    dropped: frozenset[str] = frozenset()  # given up for infrastructure
    injected: dict[str, int] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.violation is None


class World:
    """Everything around the driver."""

    def __init__(self, scenario: Scenario, root: Path, *, trace: bool = False) -> None:
        self.scenario = scenario
        self.limits = Limits()
        self.now_s = 0.0
        self.life = 0
        self.severed = False
        self.restored_version = 0
        self.faults = Faults(scenario.faults)
        self.engines: dict[str, Process] = {}
        self.learners: dict[str, Process] = {}
        self.verifiers: dict[str, Process] = {}
        self.parts: Any = None
        self.events: list[str] = []
        self.turns = 0
        self._trace = trace
        self._crash_now = False
        self._points: dict[str, int] = {}
        self._pending = [f for f in scenario.faults if not f.verb]
        self._draw = random.Random(f"world {scenario.seed}")
        self.disk = Disk(self, root)
        self.checker = Checker(self)
        self.payloads = Payloads(repeatable=True, timeout_s=0.0)
        self.stop: asyncio.Event | None = None

    # -- what simulated parts ask -----------------------------------------------------------

    def log(self, event: str) -> None:
        if self._trace:
            self.events.append(f"{self.now_s:9.3f} life {self.life} {event}")

    def token_s(self, request: GenerationRequest) -> float:
        return self.scenario.token_s * self._draw.choice((0.5, 1.0, 1.0, 1.0, 4.0))

    def short_s(self) -> float:
        return self._draw.choice((0.001, 0.03, 0.3, 2.0))

    def spread(self) -> float:
        """How much longer than usual something takes."""
        return self._draw.choice((0.1, 1.0, 1.0))

    def wanted(self) -> int | None:
        scale_requests = [
            number for at_s, number in self.scenario.scale_requests if at_s <= self.now_s
        ]
        return scale_requests[-1] if scale_requests else None

    def point(self, name: str) -> None:
        """The run reached a place where the driver may be killed."""
        self._points[name] = self._points.get(name, 0) + 1
        for fault in self.scenario.faults:
            if (fault.target, fault.verb, fault.nth) == ("driver", name, self._points[name]):
                self.faults.note(fault)
                self._crash_now = True

    # -- the clock --------------------------------------------------------------------------

    def turn(self, loop: VirtualLoop) -> None:
        """Called on every turn of the loop."""
        self.now_s = loop.time()
        self.turns += 1
        if self.severed:
            return
        if self.checker.violation is not None:
            raise Stopped
        for fault in list(self._pending):
            due = self.turns >= fault.nth if _by_turn(fault) else self.now_s >= fault.at_s
            if due:
                self._pending.remove(fault)
                self._strike(fault)
        if self._crash_now:
            self._crash_now = False
            raise Stopped
        if self.turns % LOOK_EVERY == 0:
            self.checker.look()

    def _strike(self, fault: Any) -> None:
        process = {**self.engines, **self.learners, **self.verifiers}.get(fault.target)
        self.log(f"FAULT {fault}")
        if fault.target == "driver":
            self.faults.note(fault)
            if fault.kind == "interrupt" and self.stop is not None:
                self.stop.set()
            else:
                self._crash_now = True
            return
        if process is None or not process.alive or self.parts is None:
            return
        self.faults.note(fault)
        match fault.kind:
            case "crash":
                process.die("at a time")
            case "hang":
                process.hang(fault.for_s)
            case "slow":
                process.slow = 20.0
                self.loop.call_later(fault.for_s, setattr, process, "slow", 1.0)
            case "preempt":
                process.body.num_preempted += 1

    # -- lives ------------------------------------------------------------------------------

    def run(self) -> Result:
        result = Result(scenario=self.scenario)
        try:
            result.outcome = self._lives()
        except Exception as error:  # noqa: BLE001 - whatever it is, this seed found it
            self.checker.violation = self.checker.violation or _told(error)
        checker = self.checker
        if checker.violation is None and checker.longest_gap_s > MAX_GAP_S:
            checker.violation = f"{checker.longest_gap_s:.0f} s between two steps"
        result.violation = checker.violation
        result.lives, result.seconds, result.turns = self.life, self.now_s, self.turns
        result.gap_s, result.trained_on = checker.longest_gap_s, checker.trained_on
        result.weights = checker.weights_after[-1]
        result.dropped = frozenset(
            uid for uid, state in checker.accounts.items() if state == "dropped infrastructure"
        )
        result.injected, result.events = self.faults.injected, self.events
        return result

    def _lives(self) -> str:
        while self.life < MAX_LIVES:
            self.life += 1
            outcome = self._one_life()
            self.log(f"life ends: {outcome}")
            if self.checker.violation is not None or outcome not in ("crashed", "interrupted"):
                return outcome
        raise TooLong(f"{MAX_LIVES} drivers")

    def _one_life(self) -> str:
        self.severed, self.parts, self.restored_version = False, None, 0
        self.engines.clear()
        self.learners.clear()
        self.verifiers.clear()
        self.payloads = Payloads(
            repeatable=self.scenario.repeatable,
            timeout_s=PUSH_TIMEOUT_S,
            adapters=self.scenario.adapters,
        )
        loop = self.loop = VirtualLoop(
            start_s=self.now_s,
            max_s=MAX_S,
            max_iterations=60_000,
            disk_s=lambda: self._draw.choice((0.001, 0.02, 0.2)),
            on_turn=lambda turn: self.turn(loop),
        )
        try:
            return self._outcome(loop)
        finally:
            self.severed = True
            loop.cancel_all()
            loop.close()
            if loop.errors and self.checker.violation is None:
                self.checker.violation = f"unseen: {loop.errors[0]}"

    def _outcome(self, loop: VirtualLoop) -> str:
        async def main() -> RunStatus:
            self.stop = asyncio.Event()
            return await drive(self, self.stop)

        try:
            status = loop.run_until_complete(main())
            self._nothing_left(loop)
        except Stopped:
            return "crashed"
        except (RunFailed, InfrastructureError) as error:
            reason = f"{type(error).__name__}: {error}"
            if self.parts is None:
                self.log(f"set-up failed, the job is started again: {reason}")
                return "crashed"
            if not self._explained(error):
                self.checker.fail(reason)
            return reason
        if status is RunStatus.interrupted:
            return "interrupted"
        steps = len(self.checker.weights_after) - 1
        self.checker.expect(steps == self.scenario.steps, f"done after {steps} steps")
        newest = self.disk.newest_step
        if "disk" not in {f.target for f in self.scenario.faults}:
            self.checker.expect(newest == steps, f"done, saved {newest} of {steps} steps")
        return "done"

    def _nothing_left(self, loop: VirtualLoop) -> None:
        """A driver that has ended leaves nothing running but processes it cannot reach."""
        loop.run_until_complete(asyncio.sleep(1.0))
        names = (task.get_name() for task in asyncio.all_tasks(loop))
        left = [name for name in names if not name.startswith(PROCESSES)]
        self.checker.expect(not left, f"tasks are left: {left}\n{loop.describe()}")

    def _explained(self, error: Exception) -> bool:
        """Whether so many faults hit one place that giving up is right."""
        if self.scenario.doomed:
            return True
        if isinstance(error, NothingLearned):
            first, *later = self.checker.weights_after
            return all(weights == first for weights in later)
        injected = self.faults.injected
        learners = sum(n for k, n in injected.items() if k.startswith(("trainer", "critic")))
        pushes = sum(n for k, n in injected.items() if k.startswith(("generator", "spawned")))
        text = str(error)
        if "losses of the trainer" in text:
            return learners > 3
        if "was refused" in text:
            return pushes >= 3
        return False


def _told(error: Exception) -> str:
    """The error and the line of ours that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/asyncio/" not in frame.filename]
    where = f"{own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__} at {where}: {error}"


def _by_turn(fault: Any) -> bool:
    return fault.target == "driver" and fault.kind == "crash"


def simulate(scenario: Scenario, *, trace: bool = False) -> Result:
    """Run a scenario to its end."""
    shm = Path("/dev/shm")
    base = shm if shm.is_dir() else None
    with tempfile.TemporaryDirectory(dir=base, prefix="rlpost-sim-") as root, never_cut():
        return World(scenario, Path(root), trace=trace).run()
