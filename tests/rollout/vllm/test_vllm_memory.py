"""What engines need: each its own weights, and one payload for all workers of a host."""

from rlpost.models.footprint import Footprint, together_bytes
from rlpost.models.shape import ModelShape
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.vllm.memory import (
    generator_footprint,
    in_buckets,
    payload_bytes,
    sender_pages,
)

SHAPE = ModelShape(
    parameters=1_000_000, layers=2, width=64, feed_forward=256, heads=4, kv_heads=2, head_dim=16,
    vocabulary=1000,
)  # fmt: skip
PAYLOAD = 2.0 * SHAPE.parameters


def on_host(process: str, *, workers: int = 1, adapters: AdapterCapacity | None = None) -> list:
    cfg = GeneratorConfig(tensor_parallel_size=workers)
    found = generator_footprint(
        process, SHAPE, cfg, value_bytes=2, gpu_bytes=80e9, adapters=adapters
    )
    return [each for each in found if not each.on_gpu]


def without_payload(footprints: list) -> float:
    return sum(each.peak_bytes - sum(each.shared.values()) for each in footprints)


def test_all_workers_of_a_host_map_one_payload():
    """docs/benchmarks.md: a host of 4 workers took 257 MiB for payloads of 256."""
    engines = on_host("generator 0", workers=2) + on_host("generator 1", workers=2)
    assert sum("received weights" in each.shared for each in engines) == 4
    assert together_bytes(engines) - without_payload(engines) == PAYLOAD


def test_the_trainers_host_has_two_sets_of_pages():
    sender = sender_pages(SHAPE, value_bytes=2, adapters=None)
    engines = on_host("generator 0", workers=4)
    rank = Footprint(process="trainer rank 0", kept={"libraries": 1e9}, shared=sender)
    assert together_bytes([rank, *engines]) - without_payload([rank, *engines]) == 2 * PAYLOAD


def test_an_adapter_is_a_small_payload():
    adapters = AdapterCapacity(rank=8, versions=2)
    size_bytes = payload_bytes(SHAPE, value_bytes=2, adapters=adapters)
    assert size_bytes < PAYLOAD / 10
    worker = on_host("generator 0", adapters=adapters)[-1]
    assert worker.shared == {"received weights": size_bytes}
    assert worker.kept["adapters"] == 4 * size_bytes  # each of two, as it came and in the kernels


def test_two_buckets_of_a_stream_are_there_at_a_time():
    """docs/benchmarks.md: 128 MiB a host for buckets of 64, whatever the model's size."""
    sender = sender_pages(SHAPE, value_bytes=2, adapters=None)
    rank = Footprint(process="trainer rank 0", kept={"libraries": 1e9}, shared=sender)
    other = Footprint(process="trainer rank 1", kept={"libraries": 1e9})
    needs = [rank, other, *on_host("generator 0", workers=4)]
    found = in_buckets(needs, bucket_bytes=1e5, on_gpu=False)
    assert together_bytes(found) - without_payload(needs) == 2 * 1e5
    assert found[1] is other
    small = in_buckets(needs, bucket_bytes=1e9, on_gpu=False)  # one bucket is the whole payload
    assert together_bytes(small) - without_payload(needs) == 2 * PAYLOAD


def test_buckets_between_gpus_lie_on_the_gpus():
    cfg = GeneratorConfig()
    needs = generator_footprint("generator 0", SHAPE, cfg, value_bytes=2, gpu_bytes=80e9)
    found = in_buckets(needs, bucket_bytes=1e5, on_gpu=True)
    assert [each.shared for each in found] == [{}, {}, {"buckets of a push": 2e5}]
    assert [each.on_gpu for each in found] == [False, False, True]


def test_the_host_keeps_a_copy_of_what_a_gpu_serves():
    """``weights/vllm_way_back.py``: each worker's own part, of what is pushed alone."""
    workers = on_host("generator 0", workers=2)[2:]
    assert [each.kept["copy to go back to"] for each in workers] == [PAYLOAD / 2] * 2
    read = generator_footprint(
        "generator 0", SHAPE, GeneratorConfig(), value_bytes=2, gpu_bytes=80e9, pushed=False
    )
    assert all("copy to go back to" not in each.kept and not each.shared for each in read)
