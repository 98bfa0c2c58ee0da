"""The object store has room for a step, no more than the machine can give, and says so."""

import pytest

from rlpost.cluster.store_size import ANSWERS_BYTES, StoreSize, complaint_of_joined

GIB = 1 << 30
ROOMY = {"free_bytes": 64 * GIB, "memory_bytes": 128 * GIB}


def test_a_step_and_the_one_before_it_fit_beside_the_answers():
    assert StoreSize.of(3 * GIB, **ROOMY).bytes == ANSWERS_BYTES + 6 * GIB
    assert StoreSize.of(0, **ROOMY).bytes == ANSWERS_BYTES
    assert StoreSize.of(3 * GIB, **ROOMY).complaint is None


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({"free_bytes": 4 * GIB, "memory_bytes": 128 * GIB}, 2 * GIB),  # weights are staged there
        ({"free_bytes": 64 * GIB, "memory_bytes": 10 * GIB}, 3 * GIB),  # that Ray refuses to exceed
        (
            {"free_bytes": 64 << 20, "memory_bytes": 10 * GIB},
            ANSWERS_BYTES,
        ),  # a container's default
    ],
)
def test_where_there_is_no_room_it_is_smaller_and_a_person_is_told(machine, expected):
    size = StoreSize.of(3 * GIB, **machine)
    assert size.bytes == expected
    free_mib = machine["free_bytes"] >> 20
    assert f"has {free_mib:,} MiB free" in size.complaint
    assert "should have 6,400 MiB there" in size.complaint and "--shm-size" in size.complaint


def test_a_container_without_shared_memory_is_told_even_if_nothing_is_trained():
    assert "has 64 MiB free" in StoreSize.of(0, free_bytes=64 << 20, memory_bytes=GIB).complaint


def test_a_joined_store_is_left_as_it_is_and_a_person_is_told_what_is_needed():
    needed = ANSWERS_BYTES + 6 * GIB
    assert complaint_of_joined(3 * GIB, has_bytes=needed) is None
    told = complaint_of_joined(3 * GIB, has_bytes=needed - 1)
    assert f"ray start --object-store-memory={needed}" in told
