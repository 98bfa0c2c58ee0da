"""Staleness: how far generation may run ahead, and which groups a step takes."""

import itertools
import json
import random
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rlpost.bounds import check_config
from rlpost.control.buffer import GroupBuffer, Ready, Running
from rlpost.control.staleness import OnOverage, Staleness, StalenessConfig
from rlpost.errors import UserError

WAIT, DROP, MASK = OnOverage.wait, OnOverage.drop, OnOverage.mask


def staleness_at(step, *, batch, max_staleness, on_overage=WAIT, kind=Staleness):
    """After ``step`` steps, each of which pushed version ``step + 1``."""
    config = StalenessConfig(max_staleness=max_staleness, on_overage=on_overage)
    staleness = kind(config, batch=batch)
    for done in range(step + 1):
        staleness.committed(version=done + 1, step=done)
    return staleness


def ready(*items):
    return [Ready(uid=f"0:{o}", order=o, version=v, group=None) for o, v in items]


def running(*items):
    return [Running(uid=f"0:{o}", order=o, version=v) for o, v in items]


def orders(taken):
    return None if taken is None else [entry.order for entry in taken]


# -- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_staleness": -1}, r"rl.max_staleness must be in \[0, .*got -1"),
        ({"oversample": -0.1}, r"rl.oversample must be in \[0, 4\], got -0.1"),
        ({"oversample": 5.0}, r"rl.oversample must be in \[0, 4\], got 5.0"),
        ({"oversample": 0.5}, "on_overage=wait never drops any; set on_overage=drop or mask"),
        ({"on_overage": MASK}, "on_overage=mask needs rl.max_staleness of at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        check_config(StalenessConfig(**fields), "rl")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_staleness": 3},
        {"on_overage": DROP, "oversample": 4.0},
        {"on_overage": MASK, "max_staleness": 1, "oversample": 0.5},
    ],
)
def test_settings_that_can_work_are_accepted(fields):
    check_config(StalenessConfig(**fields), "rl")


@pytest.mark.parametrize(
    ("max_staleness", "oversample", "places", "expected"),
    [
        (0, 0.0, (0, 0, 0), 4),  # one batch, on-policy
        (0, 0.0, (0, 0, 4), 0),  # and none while it trains
        (1, 0.0, (0, 0, 0), 8),
        (1, 0.0, (1, 2, 4), 1),
        (2, 0.5, (0, 0, 0), 14),  # 3 batches and half a batch
        (2, 0.5, (5, 5, 4), 0),
        (0, 0.0, (9, 0, 0), 0),  # never negative
    ],
)
def test_admission_leaves_room_for_the_batches_ahead(max_staleness, oversample, places, expected):
    config = StalenessConfig(max_staleness=max_staleness, on_overage=DROP, oversample=oversample)
    counts = dict(zip(("running", "ready", "training"), places, strict=True))
    assert Staleness(config, batch=4).admissible(**counts) == expected


def test_lag_counts_steps_and_not_versions():
    staleness = Staleness(StalenessConfig(max_staleness=1), batch=2)
    staleness.committed(version=1, step=0)
    staleness.committed(version=4, step=1)  # two pushes were aborted, their numbers are spent
    staleness.committed(version=5, step=1)  # pushed again without a step
    staleness.committed(version=6, step=2)
    assert [staleness.lag(v) for v in (1, 4, 5, 6)] == [2, 1, 1, 0]
    staleness.committed(version=6, step=3)  # that step changed no weight
    assert [staleness.lag(v) for v in (1, 4, 5, 6)] == [3, 2, 2, 0]
    with pytest.raises(AssertionError):
        staleness.committed(version=5, step=4)


def test_forgetting_keeps_what_is_asked_for_and_the_newest():
    staleness = staleness_at(3, batch=1, max_staleness=3)
    staleness.forget_before([3, 4])
    assert staleness.lag(3) == 1
    with pytest.raises(KeyError):
        staleness.lag(2)
    staleness.forget_before([])
    assert staleness.lag(4) == 0
    with pytest.raises(KeyError):
        staleness.lag(3)


def test_on_policy_waits_for_everything_admitted():
    staleness = staleness_at(0, batch=2, max_staleness=0)
    assert staleness.cut(ready((0, 1)), running((1, 1))) is None
    assert orders(staleness.cut(ready((1, 1), (0, 1)), [])) == [0, 1]


@pytest.mark.parametrize(
    ("ready_", "running_", "expected"),
    [
        # batch 2, max_staleness 1, one step done: version 1 has no time left, version 2 one step
        ([(0, 1), (1, 1)], [(2, 2), (3, 2)], [0, 1]),
        ([(1, 1), (2, 2)], [(0, 1)], None),  # 0 would be too late for the step after
        ([(2, 2), (3, 2)], [(0, 1)], None),
        ([(0, 1), (1, 1), (2, 2)], [(3, 2)], [0, 1]),
        ([(0, 2), (1, 2)], [(2, 2), (3, 2)], [0, 1]),  # the next step takes both
        ([(0, 2), (1, 2)], [(2, 2), (3, 2), (4, 2)], None),  # the next step cannot take three
        ([(0, 1)], [], None),
        ([], [], None),
    ],
)
def test_wait_cuts_when_all_left_behind_can_still_be_in_time(ready_, running_, expected):
    staleness = staleness_at(1, batch=2, max_staleness=1)
    assert orders(staleness.cut(ready(*ready_), running(*running_))) == expected


def test_drop_cuts_without_what_runs_and_without_what_is_too_old():
    staleness = staleness_at(2, batch=2, max_staleness=1, on_overage=DROP)
    old, fresh = ready((0, 1))[0], ready((1, 2))[0]
    assert staleness.too_old(old) and not staleness.too_old(fresh)
    assert staleness.cut(ready((0, 1), (1, 2)), []) is None
    assert orders(staleness.cut(ready((0, 1), (1, 2), (2, 3)), running((3, 2)))) == [1, 2]


def test_mask_takes_groups_of_any_age():
    staleness = staleness_at(4, batch=2, max_staleness=1, on_overage=MASK)
    assert not staleness.too_old(ready((0, 1))[0])
    assert orders(staleness.cut(ready((1, 5), (0, 1)), running((2, 1)))) == [0, 1]


class AdmissionOrder(Staleness):
    """Broken: first come, first served."""

    def _urgency(self, item):
        return 0, item.order


@pytest.mark.parametrize(("kind", "expected"), [(Staleness, [1]), (AdmissionOrder, None)])
def test_a_retried_group_lets_older_weights_go_first(kind, expected):
    """Group 0 was retried under version 2; group 1, of version 1, can wait no longer.

    Everything is finished and admission is exhausted, so that None would be a deadlock.
    """
    staleness = staleness_at(2, batch=1, max_staleness=2, kind=kind)
    everything = ready((0, 2), (1, 1), (2, 3))
    assert staleness.admissible(running=0, ready=3, training=0) == 0
    assert orders(staleness.cut(everything, [])) == expected


def test_state_survives_json():
    staleness = staleness_at(2, batch=2, max_staleness=2)
    restored = Staleness(staleness.config, batch=2)
    restored.load_state_dict(json.loads(json.dumps(staleness.state_dict())))
    assert restored.step == 2
    assert [restored.lag(v) for v in (1, 2, 3)] == [2, 1, 0]
    assert restored.state_dict() == staleness.state_dict()


# -- cut against every other choice --------------------------------------------------------------


def can_be_in_time(left, staleness):
    """Whether full batches, most urgent first, use all of ``left`` by its deadlines."""
    spare = sorted(staleness.config.max_staleness - staleness.lag(item.version) for item in left)
    return all(place // staleness.batch + 1 <= steps for place, steps in enumerate(spare))


class Greedy(Staleness):
    """Broken: cuts as soon as a batch is ready."""

    def _in_time(self, left):
        return True


class Timid(Staleness):
    """Broken: waits for everything that is not from the newest weights."""

    def _in_time(self, left):
        return super()._in_time(left) and all(self.lag(item.version) == 0 for item in left)


def check_cut_is_the_best_choice(kind, *, batch, max_staleness, ready_lags, running_lags):
    staleness = staleness_at(3, batch=batch, max_staleness=max_staleness, kind=kind)
    lags = [min(lag, max_staleness) for lag in (*ready_lags, *running_lags)]
    items = [(order, 4 - lag) for order, lag in enumerate(lags)]
    finished, unfinished = ready(*items[: len(ready_lags)]), running(*items[len(ready_lags) :])
    good = [
        choice
        for choice in itertools.combinations(finished, batch)
        if can_be_in_time([*(f for f in finished if f not in choice), *unfinished], staleness)
    ]
    taken = staleness.cut(finished, unfinished)
    assert (taken is None) == (not good)
    assert taken is None or any(set(orders(taken)) == set(orders(choice)) for choice in good)


lags = st.lists(st.integers(0, 3), max_size=6)
cuts = {"batch": st.integers(1, 3), "max_staleness": st.integers(0, 3)}


@given(ready_lags=lags, running_lags=lags, **cuts)
@settings(max_examples=300)
def test_cut_waits_only_if_no_choice_of_groups_would_leave_the_others_in_time(**case):
    check_cut_is_the_best_choice(Staleness, **case)


@pytest.mark.parametrize("kind", [Greedy, Timid, AdmissionOrder])
def test_that_law_notices_a_worse_cut(kind):
    @given(ready_lags=lags, running_lags=lags, **cuts)
    @settings(max_examples=1000, derandomize=True, database=None, phases=[Phase.generate])
    def law(**case):
        check_cut_is_the_best_choice(kind, **case)

    with pytest.raises(AssertionError):
        law()


# -- a whole run under random timing -------------------------------------------------------------

BOUND_ON_ADMISSION = "running, ready and training groups stay within the bound"
LAG = "nothing is trained on with a lag above the bound"
TOO_OLD = "too_old names exactly what is above the bound"
NO_AGE_DROPS = "nothing is dropped for its age"
NO_DEADLOCK = "when nothing runs and nothing may be admitted, there is a batch"
NO_WAIT = "drop and mask take the first full batch of groups that are not too old"
ON_POLICY = "on-policy, a step trains on exactly what was admitted at its version"


class Run:
    """Staleness and buffer as the producer drives them; laws are asserted at every move.

    Lags are counted here again, from the pushes that really happened. ``unchecked`` laws may
    break, so that negative controls can see the consequences.
    """

    def __init__(self, seed, kind, *, on_overage, unchecked=(), commit_early=False):
        self.rng = random.Random(seed)
        self.bound = self.rng.randint(1 if on_overage is MASK else 0, 3)
        self.batch = self.rng.randint(1, 4)
        oversample = 0.0 if on_overage is WAIT else self.rng.choice([0.0, 0.5, 1.0])
        config = StalenessConfig(
            max_staleness=self.bound, on_overage=on_overage, oversample=oversample
        )
        check_config(config, "rl")
        self.staleness = kind(config, batch=self.batch)
        self.capacity = (self.bound + 1) * self.batch + round(oversample * self.batch)
        self.buffer = GroupBuffer(capacity=100)  # keeping it small is up to admission
        self.on_overage, self.unchecked = on_overage, unchecked
        self.commit_early = commit_early  # broken: the step's groups are gone before its push
        self.slowness, self.unrest = self.rng.random(), self.rng.random() / 2
        self.version = self.step = self.num_admitted = 0
        self.step_of = {}
        self.consumed, self.given_up, self.lags = [], [], []
        self.push()

    def law(self, name, holds):
        assert holds or name in self.unchecked, name

    def lag(self, entry):
        return self.step - self.step_of[entry.version]

    def is_too_old(self, entry):
        return self.on_overage is not MASK and self.lag(entry) > self.bound

    def room(self):
        buffer = self.buffer
        return self.staleness.admissible(
            running=len(buffer.running), ready=len(buffer.ready), training=len(buffer.training)
        )

    def move(self):
        self.generate()
        buffer = self.buffer
        taken = self.staleness.cut(buffer.ready, buffer.running)
        if self.on_overage is not WAIT:
            num_usable = sum(not self.is_too_old(entry) for entry in buffer.ready)
            self.law(NO_WAIT, (taken is None) == (num_usable < self.batch))
        if taken is None:
            self.law(NO_DEADLOCK, buffer.running or self.room())
        else:
            self.train(taken)

    def generate(self):
        """Some groups start, some finish, some are tried again, few turn out useless."""
        for _ in range(self.rng.choice([self.room(), self.rng.randint(0, self.room())])):
            self.buffer.start(f"0:{self.num_admitted}", version=self.version)
            self.num_admitted += 1
        self.law(BOUND_ON_ADMISSION, len(self.buffer) <= self.capacity)
        for entry in self.buffer.running:
            if self.rng.random() < self.unrest:
                self.buffer.restart(entry.uid, version=self.version)
            elif self.rng.random() < self.slowness:
                continue
            elif self.rng.random() < 0.05:
                self.give_up(entry)
            else:
                self.buffer.finish(entry.uid, entry.uid, version=entry.version)

    def train(self, taken):
        assert len(taken) == self.batch
        if self.on_overage is not MASK:
            self.law(LAG, max(self.lag(entry) for entry in taken) <= self.bound)
        if self.bound == 0 and self.on_overage is WAIT:
            here = {entry.uid for entry in (*self.buffer.ready, *self.buffer.running)}
            self.law(ON_POLICY, here == {e.uid for e in taken if e.version == self.version})
        uids = self.buffer.reserve(entry.uid for entry in taken)
        self.generate()
        self.buffer.commit()
        if self.commit_early:
            self.generate()
        self.consumed += uids
        self.lags += [self.lag(entry) for entry in taken]
        self.step += 1
        self.push()

    def push(self):
        if self.version == 0 or self.rng.random() < 0.9:  # else the step changed no weight
            self.version += self.rng.randint(1, 2)  # aborted pushes spend numbers
        self.step_of[self.version] = self.step
        self.staleness.committed(version=self.version, step=self.step)
        for entry in (*self.buffer.ready, *self.buffer.running):
            self.law(TOO_OLD, self.staleness.too_old(entry) == self.is_too_old(entry))
            if self.staleness.too_old(entry):
                self.law(NO_AGE_DROPS, self.on_overage is DROP)
                self.give_up(entry)
        self.staleness.forget_before(e.version for e in (*self.buffer.running, *self.buffer.ready))

    def give_up(self, entry):
        self.buffer.discard(entry.uid)
        self.given_up.append(entry.uid)

    def nothing_is_lost(self):
        here = (*self.buffer.running, *self.buffer.ready, *self.buffer.training)
        everything = [*self.consumed, *self.given_up, *(entry.uid for entry in here)]
        return sorted(everything) == sorted(f"0:{n}" for n in range(self.num_admitted))


def simulate(seed, kind=Staleness, *, on_overage=WAIT, **flags):
    run = Run(seed, kind, on_overage=on_overage, **flags)
    for _ in range(50):
        run.move()
    assert run.nothing_is_lost()
    return run


def breaks(law, kind, **flags):
    """Whether some seed breaks ``law`` before any other."""
    for seed in range(200):
        try:
            simulate(seed, kind, **flags)
        except AssertionError as error:
            if str(error).startswith(law):
                return True
    return False


@pytest.mark.parametrize("on_overage", OnOverage)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_every_law_holds_under_any_timing(on_overage, seed):
    simulate(seed, on_overage=on_overage)


def test_the_simulation_trains_a_lot_and_reaches_every_lag():
    """Negative control of the simulation itself: no law holds because nothing happens."""
    runs = [simulate(seed) for seed in range(100)]
    reached = {(run.bound, lag) for run in runs for lag in run.lags}
    assert reached == {(bound, lag) for bound in range(4) for lag in range(bound + 1)}
    assert sum(run.step for run in runs) > 500


class NoPushes(Staleness):
    """Broken: no push makes anything older."""

    def committed(self, *, version, step):
        super().committed(version=version, step=0)


class NoRenewal(Staleness):
    """Broken: a step that changed no weight makes the newest version older."""

    def committed(self, *, version, step):
        first = self._step_of.get(version, step)
        super().committed(version=version, step=step)
        self._step_of[version] = first


class OneMoreBatch(Staleness):
    """Broken: admits too many."""

    def admissible(self, *, running, ready, training):
        return super().admissible(running=running - self.batch, ready=ready, training=training)


class BlindToTraining(Staleness):
    """Broken: the step in progress makes room for others."""

    def admissible(self, *, running, ready, training):
        return super().admissible(running=running, ready=ready, training=0)


class Ageless(Staleness):
    """Broken: trains on anything."""

    def too_old(self, item):
        return False


class AgelessGreedy(Ageless, Greedy):
    """Broken: as if there were no bound."""


class GreedyOneMoreBatch(Greedy, OneMoreBatch):
    """Broken: admits too many and leaves the rest behind."""


class Patient(Ageless):
    """Broken for drop and mask: waits for what runs."""

    def __init__(self, config, *, batch):
        super().__init__(replace(config, on_overage=WAIT), batch=batch)


@pytest.mark.parametrize(
    ("kind", "on_overage", "law", "unchecked"),
    [
        (Greedy, WAIT, NO_AGE_DROPS, ()),
        (AgelessGreedy, WAIT, LAG, (TOO_OLD,)),
        (NoPushes, WAIT, TOO_OLD, ()),
        (NoPushes, WAIT, LAG, (TOO_OLD,)),
        (AdmissionOrder, WAIT, NO_DEADLOCK, ()),
        (OneMoreBatch, WAIT, BOUND_ON_ADMISSION, ()),
        (OneMoreBatch, WAIT, NO_DEADLOCK, (BOUND_ON_ADMISSION,)),
        (BlindToTraining, WAIT, BOUND_ON_ADMISSION, ()),
        (BlindToTraining, WAIT, NO_DEADLOCK, (BOUND_ON_ADMISSION, NO_AGE_DROPS)),
        (GreedyOneMoreBatch, WAIT, ON_POLICY, (BOUND_ON_ADMISSION,)),
        (NoRenewal, DROP, TOO_OLD, ()),
        (Ageless, DROP, TOO_OLD, ()),
        (Ageless, DROP, LAG, (TOO_OLD, NO_WAIT)),
        (Patient, MASK, NO_WAIT, ()),
    ],
)
def test_a_broken_mechanism_breaks_its_law(kind, on_overage, law, unchecked):
    assert breaks(law, kind, on_overage=on_overage, unchecked=unchecked)


@pytest.mark.parametrize("law", [NO_AGE_DROPS, NO_DEADLOCK])
def test_a_step_counts_as_in_training_until_its_version_is_committed(law):
    """Room that opens before the push is filled from weights that age at once."""
    assert breaks(law, Staleness, commit_early=True)
