"""What one seed means: a configuration and the faults that will happen.

Owns the choice. Everything random about a run is decided here, before it starts, or drawn
from generators that this file names; the run itself only looks things up.
"""

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from rlpost.control.staleness import OnOverage
from rlpost.rollout.generator_config import AdapterCapacity

ENGINE_VERBS = (
    "generate",
    "begin_push",
    "receive",
    "load",
    "logprobs",
    "commit_push",
    "abort_push",
    "health",
)
PUSH_VERBS = ENGINE_VERBS[1:7]
TRAINER_VERBS = (
    "forward_backward",
    "optim_step",
    "stage",
    "announce_again",
    "send",
    "release",
    "probe_logprobs",
    "begin_save",
    "finish_save",
    "load",
    "setup",
)
DRIVER_POINTS = (
    "stage",
    "commit_push",
    "optim_step",
    "begin_save",
    "commit begins",
    "commit ends",
    "trained",
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong, once.

    Example: ``Fault(kind="crash_before", target="generator 0", verb="load", nth=2)``
    """

    kind: str
    target: str
    verb: str = ""  # "" : at a time, not at a call
    nth: int = 1
    at_s: float = 0.0
    for_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A run to simulate."""

    seed: int
    steps: int
    batch: int
    group_size: int
    generators: int
    max_staleness: int
    on_overage: OnOverage = OnOverage.wait
    oversample: float = 0.0
    dynamic: bool = False
    adapters: bool = False  # are pushed, and not whole models
    turns: bool = False  # engines leave their device to the trainer
    online: bool = False  # pairs of the samples are learned, not advantages; with ``dynamic``
    epochs: int = 1
    mini_batches: int = 1
    every: int = 1
    keep: int = 2
    critic: bool = False
    critic_alone: int = 0  # steps in which only the critic learns
    proximal: bool = False
    repeatable: bool = True
    payload_survives: bool = True  # the trainer's death leaves what it had staged
    reset_seen: bool = True  # a peer's death ends a transfer at once
    workers: int = 1
    heldout: bool = False
    rows: int = 12
    token_s: float = 0.2
    max_tokens: int = 5
    interrupt_after: int | None = None  # tokens
    permits: int = 4
    verifiers: int = 1
    boot_s: float = 2.0
    load_s: float = 0.1
    poison: frozenset[int] = frozenset()
    faults: tuple[Fault, ...] = ()
    scale_requests: tuple[tuple[float, int], ...] = ()  # (time, number of generators)
    doomed: bool = False  # cannot end well: only the reason is checked

    @property
    def synchronous(self) -> bool:
        """Whether the results may not depend on what fails on the way."""
        return self.max_staleness == 0 and self.on_overage is OnOverage.wait

    @property
    def capacity(self) -> int:
        """Adapters that an engine can hold; 0: it takes whole models."""
        room = AdapterCapacity.of(rank=1, max_staleness=self.max_staleness)
        return room.versions if self.adapters else 0

    @property
    def names(self) -> list[str]:
        return [f"generator {i}" for i in range(self.generators)]

    def without_faults(self) -> "Scenario":
        return replace(self, faults=(), scale_requests=(), poison=frozenset())


def scenario_of(seed: int) -> Scenario:
    """Return what ``seed`` stands for."""
    draw = random.Random(f"scenario {seed}")
    base = replace(
        _configuration(seed, draw),
        interrupt_after=_interrupt_after(seed),
        adapters=random.Random(f"adapters {seed}").random() < 0.25,  # decided apart as well
    )
    if seed % 10 == 0:  # nothing goes wrong
        return base
    num = draw.choice((1, 1, 2, 3, 5))
    faults = tuple(_fault(draw, base) for _ in range(num))
    poison = frozenset({draw.randrange(base.rows)}) if draw.random() < 0.1 else frozenset()
    scale_requests: tuple[tuple[float, int], ...] = ()
    if draw.random() < 0.12:
        scale_requests = tuple(
            (draw.uniform(1, 40) * i, draw.randint(1, 3)) for i in range(1, draw.randint(2, 4))
        )
    scenario = _replaced_in_a_push(
        seed, replace(base, faults=faults, poison=poison, scale_requests=scale_requests)
    )
    return _in_turns(seed, scenario)


def online_of(seed: int) -> Scenario:
    """Return what ``seed`` stands for where a policy learns from pairs of its own samples."""
    base = scenario_of(seed)
    return replace(
        base,
        online=True,
        dynamic=True,  # groups without a pair are replaced
        group_size=max(4, base.group_size),
        on_overage=OnOverage.drop if base.on_overage is OnOverage.mask else base.on_overage,
        epochs=1,
        mini_batches=1,
        critic=False,
        critic_alone=0,
        proximal=False,
        faults=tuple(each for each in base.faults if each.target != "critic"),
    )


def doomed(seed: int) -> Scenario:
    """A run that cannot end well: something fails every time."""
    draw = random.Random(f"doomed {seed}")
    base = _configuration(seed, draw)
    kind, target, verb = draw.choice(
        (
            ("crash_before", "generator 0", "generate"),
            ("crash_before", "generator 0", "load"),
            ("hang", "generator 0", "begin_push"),
            ("hang", "generator 0", "generate"),
            ("corrupt", "generator 0", "load"),
            ("damage", "generator 0", "receive"),
            ("crash_before", "trainer", "optim_step"),
            ("hang", "trainer", "forward_backward"),
            ("crash_after", "trainer", "stage"),
            ("crash_before", "verifier 0", "judge"),
            ("hang", "verifier 0", "judge"),
        )
    )
    faults = tuple(
        Fault(kind=kind, target=target, verb=verb, nth=nth, for_s=1e9) for nth in range(2, 400)
    )
    return replace(
        base, generators=1, faults=faults, verifiers=1, doomed=True, critic=False, critic_alone=0
    )


def _configuration(seed: int, draw: random.Random) -> Scenario:
    staleness = draw.choice((0, 0, 1, 1, 2, 3))
    overages = [OnOverage.wait, OnOverage.wait, OnOverage.drop]
    if staleness:
        overages.append(OnOverage.mask)
    overage = draw.choice(overages)
    oversample = 0.0 if overage is OnOverage.wait else draw.choice((0.0, 0.5, 1.0))
    critic = draw.random() < 0.2
    steps = draw.randint(3, 6)
    return Scenario(
        seed=seed,
        steps=steps,
        batch=draw.randint(1, 4),
        group_size=draw.randint(2, 3),
        generators=draw.randint(1, 3),
        max_staleness=staleness,
        on_overage=overage,
        oversample=oversample,
        dynamic=draw.random() < 0.3,
        epochs=draw.choice((1, 1, 1, 2)),
        mini_batches=draw.choice((1, 1, 2)),
        every=draw.randint(1, 3),
        keep=draw.randint(1, 2),
        critic=critic,
        critic_alone=draw.randint(0, 1) if critic else 0,
        proximal=draw.random() < 0.15,
        repeatable=draw.random() < 0.6,
        payload_survives=draw.random() < 0.5,
        reset_seen=draw.random() < 0.5,
        workers=draw.choice((1, 1, 2)),
        heldout=draw.random() < 0.2,
        rows=draw.randint(5, 16),
        token_s=draw.choice((0.05, 0.2, 1.0)),
        max_tokens=draw.randint(2, 7),
        permits=draw.randint(1, 6),
        verifiers=draw.randint(1, 2),
        boot_s=draw.choice((0.1, 2.0)),
        load_s=draw.choice((0.1, 0.1, 2.5)),
    )


def _interrupt_after(seed: int) -> int | None:
    """Decided apart, so that it changes nothing else about a seed."""
    draw = random.Random(f"interruption {seed}")
    return draw.randint(1, 3) if draw.random() < 0.2 else None


def _in_turns(seed: int, base: Scenario) -> Scenario:
    """Decided apart: engines and trainer share a device, and some sleep goes wrong."""
    draw = random.Random(f"turns {seed}")
    if not base.synchronous or base.adapters or draw.random() >= 0.5:
        return base
    faults = base.faults
    if draw.random() < 0.5:
        how = draw.choice(("crash_before", "crash_after", "crash_later", "hang", "lost_ack"))
        target, nth = draw.choice(base.names), draw.randint(1, 4)
        faults = (*faults, Fault(kind=how, target=target, verb="sleep", nth=nth, for_s=1e9))
    return replace(base, turns=True, faults=faults)


def _replaced_in_a_push(seed: int, base: Scenario) -> Scenario:
    """Decided apart: an engine dies in a push that another holds up, while requests go on."""
    draw = random.Random(f"replaced in a push {seed}")
    if base.generators < 2 or base.max_staleness == 0 or draw.random() >= 0.05:
        return base
    nth = draw.randint(2, 3)
    dies = Fault(kind="crash_during", target="generator 0", verb=draw.choice(PUSH_VERBS), nth=nth)
    holds = Fault(kind="hang", target="generator 1", verb="commit_push", nth=nth, for_s=1e9)
    faults = (*base.faults, dies, holds)
    return replace(base, token_s=0.3, max_tokens=20, boot_s=2.0, faults=faults)


def _fault(draw: random.Random, base: Scenario) -> Fault:
    kind = draw.choice(_KINDS)
    generator = draw.choice(base.names)
    nth, at_s = draw.randint(1, 6), draw.uniform(0, 8) * draw.choice((1, 5))
    trained = draw.choice(("trainer", "critic") if base.critic else ("trainer",))
    match kind:
        case "generator crash at a time":
            return Fault(kind="crash", target=generator, at_s=at_s)
        case "generator crash in a call":
            how = draw.choice(("crash_before", "crash_after", "crash_during"))
            verb = draw.choice(ENGINE_VERBS)
            return Fault(kind=how, target=generator, verb=verb, nth=nth)
        case "generator crash in a push":
            how = draw.choice(("crash_before", "crash_after", "crash_during", "crash_later"))
            return Fault(kind=how, target=generator, verb=draw.choice(PUSH_VERBS), nth=nth)
        case "generator hang":
            verb = draw.choice(("", *ENGINE_VERBS))
            for_s = draw.choice((3.0, 12.0, 1e9))
            return Fault(kind="hang", target=generator, verb=verb, nth=nth, at_s=at_s, for_s=for_s)
        case "slow generator":
            return Fault(kind="slow", target=generator, at_s=at_s, for_s=draw.uniform(5, 60))
        case "preempting generator":
            return Fault(kind="preempt", target=generator, at_s=at_s)
        case "lost answer of a generator":
            how = draw.choice(("lost_ack", "lost_call"))
            return Fault(kind=how, target=generator, verb=draw.choice(ENGINE_VERBS), nth=nth)
        case "failed boot":
            # Of a process that replaces another: the first boot of all is set-up.
            how = draw.choice(("crash_before", "hang"))
            number = base.generators + draw.randint(1, 2)
            return Fault(kind=how, target="spawned", verb="setup", nth=number, for_s=1e9)
        case "damaged payload":
            return Fault(kind="damage", target=generator, verb="receive", nth=nth)
        case "corrupt load":
            return Fault(kind="corrupt", target=generator, verb="load", nth=nth)
        case "verifier":
            how = draw.choice(("crash_before", "crash_after", "hang"))
            target = f"verifier {draw.randrange(base.verifiers)}"
            return Fault(kind=how, target=target, verb="judge", nth=nth, for_s=1e9)
        case "trainer death":
            how = draw.choice(("crash_before", "crash_after", "crash_during"))
            return Fault(kind=how, target=trained, verb=draw.choice(TRAINER_VERBS), nth=nth)
        case "trainer death at a time":
            return Fault(kind="crash", target=trained, at_s=at_s)
        case "trainer hang":
            verb = draw.choice(TRAINER_VERBS[:-1])
            return Fault(kind="hang", target=trained, verb=verb, nth=nth, for_s=1e9)
        case "driver crash at a turn":
            return Fault(kind="crash", target="driver", nth=int(10 ** draw.uniform(1.0, 3.6)))
        case "driver crash at a point":
            verb = draw.choice(DRIVER_POINTS)
            return Fault(kind="crash", target="driver", verb=verb, nth=nth)
        case "interrupt":
            return Fault(kind="interrupt", target="driver", at_s=at_s)
        case "disk":
            how = draw.choice(("full", "full", "damage"))
            verb = draw.choice(("begin", "write", "commit"))
            verb = "commit" if how == "damage" else verb  # of what was committed
            return Fault(kind=how, target="disk", verb=verb, nth=nth)
    raise AssertionError(kind)


_KINDS = (
    "generator crash at a time",
    "generator crash at a time",
    "generator crash in a call",
    "generator crash in a push",
    "generator crash in a push",
    "generator hang",
    "generator hang",
    "slow generator",
    "preempting generator",
    "lost answer of a generator",
    "lost answer of a generator",
    "failed boot",
    "damaged payload",
    "corrupt load",
    "verifier",
    "verifier",
    "trainer death",
    "trainer death",
    "trainer death at a time",
    "trainer hang",
    "driver crash at a turn",
    "driver crash at a turn",
    "driver crash at a point",
    "interrupt",
    "disk",
)


@lru_cache(maxsize=1)
def kinds() -> tuple[str, ...]:
    """Every kind of fault, once."""
    return tuple(dict.fromkeys(_KINDS))
