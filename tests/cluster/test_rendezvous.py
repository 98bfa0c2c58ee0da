"""A meeting of several nodes in threads of one process: real store, real gloo."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rlpost.cluster.rendezvous import Rendezvous
from rlpost.errors import NoAnswer
from rlpost.network import free_port, interface_to

NAMES = ["n1", "n2"]


def meet(names, attend):
    """Run ``attend(meeting, rank)`` for both of NAMES, at a meeting of ``names``."""
    port = free_port()

    def one(rank):
        meeting = Rendezvous(names, rank=rank, address="127.0.0.1", port=port, timeout_s=30)
        return meeting, attend(meeting, rank)

    with ThreadPoolExecutor() as pool:  # the first one's store must outlive the others' answers
        return [result for _, result in pool.map(one, range(len(NAMES)))]


def test_everybody_is_heard_and_the_sum_is_that_of_all():
    interface = interface_to("127.0.0.1")

    def attend(meeting, rank):
        meeting.say("name", f"rank {rank}")
        return meeting.hear("name", timeout_s=30), meeting.add_up(interface, timeout_s=30)

    everybody = {"n1": "rank 0", "n2": "rank 1"}
    assert meet(NAMES, attend) == [(everybody, 3.0), (everybody, 3.0)]


def test_who_does_not_come_is_absent_and_the_sum_fails():
    interface = interface_to("127.0.0.1")

    def attend(meeting, rank):
        meeting.say("name", "here")
        heard = meeting.hear("name", timeout_s=3)
        with pytest.raises(NoAnswer):
            meeting.add_up(interface, timeout_s=1)
        return sorted(heard)

    assert meet([*NAMES, "n3"], attend) == [NAMES, NAMES]


def test_a_host_that_is_not_there_is_named():
    with pytest.raises(NoAnswer, match="n1 does not answer n2"):
        Rendezvous(NAMES, rank=1, address="127.0.0.1", port=free_port(), timeout_s=1)
