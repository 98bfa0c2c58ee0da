"""The ledger: every admitted uid ends exactly once."""

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rlpost.control.ledger import Ledger, LedgerCounts, LedgerViolation


def test_a_prompt_ends_once():
    ledger = Ledger()
    for uid in ("0:0", "0:1", "1:0"):
        ledger.admit(uid)
    ledger.consume("0:1", 1)
    ledger.drop("0:0", "stale")
    assert ledger.outstanding() == ("1:0",)
    assert ledger.counts == LedgerCounts(
        admitted=3, consumed=1, dropped={"stale": 1}, outstanding=1
    )
    assert ledger.balanced()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda ledger: ledger.admit("0:0"), "still outstanding"),
        (lambda ledger: ledger.admit("0:1"), "admitted again after it had ended"),
        (lambda ledger: ledger.admit("0:2"), "admitted again after it had ended"),
        (lambda ledger: ledger.consume("0:1", 5), "consumed at step 5, but it had already ended"),
        (lambda ledger: ledger.drop("0:1", "stale"), r"dropped \(stale\), but it had already"),
        (lambda ledger: ledger.consume("0:9", 5), "but it was never admitted"),
        (lambda ledger: ledger.consume("0:0", 3), "consumed at step 3, after step 4"),
        (lambda ledger: ledger.drop("0:0", "it failed: 'x'"), "snake_case"),
        (lambda ledger: ledger.admit("seventeen"), "\"<epoch>:<row>\", got 'seventeen'"),
    ],
)
def test_violations_say_what_happened_and_change_nothing(act, message):
    ledger = Ledger()
    for uid in ("0:0", "0:1", "0:2"):
        ledger.admit(uid)
    ledger.consume("0:1", step=4)
    ledger.drop("0:2", "stale")
    before = ledger.state_dict()
    with pytest.raises(LedgerViolation, match=message):
        act(ledger)
    assert ledger.state_dict() == before


def test_state_survives_json_and_still_refuses_a_second_end():
    ledger = Ledger()
    for row in (3, 900, 7):
        ledger.admit(f"2:{row}")
    ledger.consume("2:900", 1)
    restored = Ledger()
    restored.admit("0:0")
    restored.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert restored.counts == ledger.counts
    assert restored.outstanding() == ("2:3", "2:7")
    assert restored.state_dict() == ledger.state_dict()
    with pytest.raises(LedgerViolation, match="ended"):
        restored.admit("2:900")
    restored.consume("2:3", 2)
    assert ledger.outstanding() == ("2:3", "2:7")  # the copy is independent


@pytest.mark.parametrize(
    "damage",
    [
        {"consumed": 0},
        {"admitted": 7},
        {"outstanding": []},
        {"dropped": {"stale": 1}},
        {"ended": {}},
        {"outstanding": ["0:1"]},
    ],
)
def test_a_state_that_does_not_balance_is_refused(damage):
    """Negative control of ``balanced``: each record is checked against another."""
    ledger = Ledger()
    ledger.admit("0:0")
    ledger.admit("0:1")
    ledger.consume("0:1", 1)
    fresh = Ledger()
    fresh.load_state_dict(ledger.state_dict())
    with pytest.raises(LedgerViolation, match="does not balance"):
        fresh.load_state_dict(ledger.state_dict() | damage)
    assert fresh.counts == ledger.counts


def test_the_state_of_a_long_run_stays_small():
    ledger = Ledger()
    for epoch in range(3):
        for row in range(20_000):
            ledger.admit(f"{epoch}:{row}")
            ledger.consume(f"{epoch}:{row}", step=epoch)
    assert ledger.balanced()
    assert len(json.dumps(ledger.state_dict())) < 1_000


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of calls agrees with a naive model that remembers every uid."""

    def __init__(self):
        super().__init__()
        self.ledger, self.model = Ledger(), {}

    uids = st.builds("{}:{}".format, st.integers(0, 1), st.integers(0, 20))

    def expect(self, allowed, call):
        if allowed:
            call()
        else:
            with pytest.raises(LedgerViolation):
                call()
        return allowed

    @rule(uid=uids)
    def admit(self, uid):
        if self.expect(uid not in self.model, lambda: self.ledger.admit(uid)):
            self.model[uid] = "outstanding"

    @rule(uid=uids)
    def consume(self, uid):
        allowed = self.model.get(uid) == "outstanding"
        if self.expect(allowed, lambda: self.ledger.consume(uid, 1)):
            self.model[uid] = "consumed"

    @rule(uid=uids, reason=st.sampled_from(["stale", "poison"]))
    def drop(self, uid, reason):
        allowed = self.model.get(uid) == "outstanding"
        if self.expect(allowed, lambda: self.ledger.drop(uid, reason)):
            self.model[uid] = reason

    @rule()
    def save_and_load(self):
        state = json.loads(json.dumps(self.ledger.state_dict()))
        self.ledger = Ledger()
        self.ledger.load_state_dict(state)

    @invariant()
    def agrees_with_the_model(self):
        states = list(self.model.values())
        counts = self.ledger.counts
        assert self.ledger.balanced()
        assert counts.admitted == len(states)
        assert counts.consumed == states.count("consumed")
        assert counts.dropped == {
            reason: states.count(reason) for reason in ("stale", "poison") if reason in states
        }
        assert set(self.ledger.outstanding()) == {
            uid for uid, state in self.model.items() if state == "outstanding"
        }


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=30, stateful_step_count=30)
