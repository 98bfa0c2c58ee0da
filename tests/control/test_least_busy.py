"""The choice is that of a look at all candidates, and the heap stays small."""

import random

from rlpost.control.least_busy import LeastBusy


def test_after_any_history_the_choice_is_that_of_a_look_at_all():
    """Ties, which are most of it, go to the one that was listed first."""
    rng, seen = random.Random(0), set()
    for _ in range(40):
        names = [f"g{n}" for n in range(rng.randint(1, 9))]
        rng.shuffle(names)
        found, plain = LeastBusy(), {}
        found.begin(names)
        for _ in range(200):
            name = rng.choice([*names, "a stranger"])
            if rng.random() < 0.3:
                found.withdraw(name)
                plain.pop(name, None)
            else:
                has = rng.randint(0, 3)
                found.offer(name, has)
                plain[name] = has
            expected = min((n for n in names if n in plain), key=plain.get, default=None)
            assert found.first() == expected
            seen.add("none" if expected is None else names.index(expected))
    assert seen >= {"none", 0, 1, 8}


def test_what_is_outdated_does_not_pile_up():
    found = LeastBusy()
    found.begin(["idle", "busy"])
    found.offer("idle", 0)
    for has in range(1000):  # never the first, so none of it comes up
        found.offer("busy", 1 + has)
    assert len(found._heap) < 32
    found.withdraw("idle")
    assert found.first() == "busy"
