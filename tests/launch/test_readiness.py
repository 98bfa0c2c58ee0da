"""The wait for a Ray cluster names who is missing."""

import pytest

from rlpost.errors import NoAnswer
from rlpost.launch.readiness import await_nodes, joined_nodes
from rlpost.network import free_port


def test_nodes_may_join_one_by_one():
    seen = iter([[], ["n2"], ["n2", "n1", "someone else"]])
    await_nodes(["n1", "n2"], deadline_s=30, joined=lambda: next(seen))
    assert list(seen) == []


def test_who_does_not_join_is_named():
    with pytest.raises(NoAnswer, match=r"^n2, n3 did not join the Ray cluster in 0.1 s$"):
        await_nodes(["n1", "n2", "n3"], deadline_s=0.1, joined=lambda: ["n1"])


def test_a_head_that_is_not_there_has_no_nodes():
    assert joined_nodes(f"127.0.0.1:{free_port()}")() == []
