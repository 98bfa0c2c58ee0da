"""Both ends divide a payload alike, and a bucket that verifies is the one that was sent."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.errors import WeightPushError
from rlpost.weights.buckets import (
    divide,
    give_up,
    pack,
    seal,
    slot_bytes,
    verify,
    was_given_up,
)
from rlpost.weights.manifest import PushManifest, describe
from rlpost.weights.transports.gloo_wire import GlooWire

CHECKSUM = GlooWire().checksum
sizes = st.lists(st.integers(0, 400), max_size=12)


def planned(lengths: list[int], most_bytes: int):
    shapes = [(f"t{n}", torch.float16, (length,)) for n, length in enumerate(lengths)]
    manifest = describe(shapes, version=1)
    return manifest, divide(PushManifest.from_dict(manifest.to_dict()), most_bytes=most_bytes)


@given(lengths=sizes, most_bytes=st.integers(1, 1000))
def test_buckets_hold_every_tensor_once_in_order_and_no_more_than_fits(lengths, most_bytes):
    manifest, buckets = planned(lengths, most_bytes)
    assert [e for bucket in buckets for e in bucket.entries] == list(manifest.entries)
    assert [bucket.number for bucket in buckets] == list(range(len(buckets)))
    for bucket in buckets:
        assert bucket.size_bytes <= most_bytes or len(bucket.entries) == 1
    for bucket, after in pairwise(buckets):  # none could hold one more
        first = after.entries[0]
        assert first.offset + first.size_bytes - bucket.start > most_bytes
    assert all(bucket.sent_bytes <= slot_bytes(buckets) for bucket in buckets)


def filled(number: int = 1):
    tensors = {f"t{n}": torch.randn(50).half() for n in range(4)}
    _, buckets = planned([50] * 4, 260)
    assert len(buckets) == 2
    source = iter(tensors.items())
    slot = torch.full((slot_bytes(buckets),), 7, dtype=torch.uint8)
    for bucket in buckets[: number + 1]:
        pack(bucket, source, slot)
        seal(bucket, slot, push=3, checksum=CHECKSUM)
    return tensors, buckets[number], slot


def test_what_was_packed_is_what_is_unpacked():
    tensors, bucket, slot = filled()
    found = dict(verify(bucket, slot, push=3, checksum=CHECKSUM))
    assert list(found) == ["t2", "t3"] and not was_given_up(bucket, slot)
    assert all(torch.equal(found[name], tensors[name]) for name in found)


@given(byte=st.integers(0, 287), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused_wherever_it_is(byte, bit):
    _, bucket, slot = filled()
    assert bucket.sent_bytes == 320  # of which the last 32 mean nothing
    slot[byte] ^= 1 << bit
    if bucket.size_bytes <= byte < 256:  # between the tensors and the header
        verify(bucket, slot, push=3, checksum=CHECKSUM)
        return
    with pytest.raises(WeightPushError, match="bucket 1, from t2 on"):
        verify(bucket, slot, push=3, checksum=CHECKSUM)


def test_a_bucket_of_another_number_or_push_is_refused():
    _, bucket, slot = filled()
    _, other, _ = filled(0)
    for wanted, push in ((bucket, 4), (other, 3)):
        with pytest.raises(WeightPushError, match="its number or its checksum"):
            verify(wanted, slot, push=push, checksum=CHECKSUM)
    give_up(bucket, slot, push=3)
    assert was_given_up(bucket, slot)


def test_a_tensor_that_was_not_announced_is_named():
    bucket, slot = planned([50] * 4, 260)[1][0], torch.zeros(400, dtype=torch.uint8)
    for wrong in ({"t0": torch.zeros(50)}, {"t1": torch.zeros(50).half()}, {}):
        with pytest.raises(WeightPushError, match=r"t0 .* was announced, and the trainer gave"):
            pack(bucket, iter(wrong.items()), slot)
