"""A payload that verifies is byte for byte what was written."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import (
    PushManifest,
    payload_size_bytes,
    read_payload,
    refuse_other_model,
    write_payload,
)

WEIGHTS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(7, dtype=torch.int64),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in WEIGHTS.items()}


def written(weights=WEIGHTS, version=3):
    size = payload_size_bytes((n, t.dtype, tuple(t.shape)) for n, t in WEIGHTS.items())
    buffer = torch.zeros(size, dtype=torch.uint8)
    return write_payload(iter(weights.items()), buffer, version=version), buffer


def test_round_trip_through_plain_data():
    manifest, buffer = written()
    manifest = PushManifest.from_dict(manifest.to_dict())
    tensors = dict(read_payload(manifest, buffer))
    assert all(torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)


@given(byte=st.integers(0, 23), bit=st.integers(0, 7))
def test_one_flipped_bit_is_named(byte, bit):
    manifest, buffer = written()
    buffer[byte] ^= 1 << bit
    with pytest.raises(WeightPushError, match="checksum of a differs"):
        read_payload(manifest, buffer)


def test_missing_and_unknown_tensors_are_named():
    manifest, _ = written({n: t for n, t in WEIGHTS.items() if n != "b"})
    with pytest.raises(WeightPushError, match=r"missing \['b'\]"):
        refuse_other_model(manifest, SHAPES)
    manifest, _ = written()
    with pytest.raises(WeightPushError, match=r"unknown \['scalar'\]"):
        refuse_other_model(manifest, {n: s for n, s in SHAPES.items() if n != "scalar"})
    refuse_other_model(manifest, SHAPES)


def test_a_misshapen_tensor_is_named():
    longer = {**WEIGHTS, "b": torch.cat([WEIGHTS["b"], WEIGHTS["b"]])}
    manifest, _ = written(longer)
    with pytest.raises(WeightPushError, match=r"b has shape \(6,\), the model has \(3,\)"):
        refuse_other_model(manifest, SHAPES)


def test_short_payload_and_small_buffer_are_refused():
    manifest, buffer = written()
    with pytest.raises(WeightPushError, match="received 64 of"):
        read_payload(manifest, buffer[:64])
    with pytest.raises(WeightPushError, match="ends inside a"):
        write_payload(iter(WEIGHTS.items()), torch.zeros(8, dtype=torch.uint8), version=1)
