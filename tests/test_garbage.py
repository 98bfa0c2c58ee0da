"""The collector pauses within the context, and only there."""

import gc
import weakref

import pytest

from rlpost.garbage import without_collection


class Node:
    """What refers to itself is freed by the collector alone."""

    def __init__(self) -> None:
        self.myself = self


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_nothing_is_collected_within_and_the_collector_runs_again_after():
    before = collections()
    with without_collection():
        lost = weakref.ref(Node())
        kept = [[] for _ in range(100_000)]  # a hundred times what starts a collection
        assert lost() is not None and collections() == before
    del kept
    assert gc.isenabled()
    [[] for _ in range(100_000)]
    assert collections() > before


def test_a_failure_within_ends_the_pause():
    with pytest.raises(KeyError), without_collection():
        raise KeyError
    assert gc.isenabled()


def test_who_had_switched_it_off_finds_it_off():
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
