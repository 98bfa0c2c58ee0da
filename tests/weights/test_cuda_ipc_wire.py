"""A stream through memory that processes map, on a CPU: everything but CUDA's own calls."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from fakes import seat
from streams import Streamed, weights

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import describe
from rlpost.weights.publisher import WeightPublisher
from rlpost.weights.transports import cuda_runtime
from rlpost.weights.transports.choice import Senders
from rlpost.weights.transports.cuda_ipc_wire import CudaIpcWire
from rlpost.weights.transports.cuda_runtime import CudaRuntime, memory_at
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.route import joined
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.stream_receiver import StreamReceiver
from rlpost.weights.transports.stream_sender import StreamSender


class Memory:
    """Memory of one device, that all its processes share; see ``cuda_ipc_wire.SharedDevice``."""

    device = torch.device("cpu")

    def __init__(self, gpu: str = "GPU-0") -> None:
        self.gpu = gpu
        self.allocated: dict[int, torch.Tensor] = {}
        self.opened: list[int] = []

    def allocate(self, size_bytes):
        memory = torch.zeros(size_bytes, dtype=torch.uint8)
        self.allocated[memory.data_ptr()] = memory
        return memory

    def free(self, memory):
        assert memory.data_ptr() not in self.opened, "somebody has it open"
        del self.allocated[memory.data_ptr()]

    def export(self, memory):
        assert memory.data_ptr() in self.allocated
        return f"{memory.data_ptr():x}"

    def open(self, handle, size_bytes):
        self.opened.append(int(handle, 16))
        return memory_at(int(handle, 16), size_bytes, device=self.device)

    def close(self, memory):
        self.opened.remove(memory.data_ptr())

    def settle(self):
        """It is as it was written."""


class Stream:
    """A sender and two workers beside it, and the memory of their GPU."""

    def __init__(self, root) -> None:
        self.memory, self.root = Memory(), root
        self.sender = self.make_sender()
        self.receivers = [
            StreamReceiver(CudaIpcWire(self.memory), directory=root) for _ in range(2)
        ]

    def make_sender(self) -> StreamSender:
        return StreamSender(
            CudaIpcWire(self.memory),
            run_id="ipc",
            host="127.0.0.1",
            timeout_s=20.0,
            bucket_bytes=256,
            directory=self.root,
        )

    def push(self, version: int) -> None:
        tensors = weights(version)
        shapes = [(name, each.dtype, tuple(each.shape)) for name, each in tensors.items()]
        seats = [seat(shared_memory_id(), num_workers=2, gpus=("GPU-0", "GPU-0"))]
        locator = self.sender.announce(describe(shapes, version=version), seats=seats)
        with ThreadPoolExecutor(2) as pool:
            reading = []
            for rank, receiver in enumerate(self.receivers, start=1):
                where = {**locator.where, "rank": rank}
                own = Locator(**{**vars(locator), "where": where})
                reading.append(pool.submit(Streamed.read, receiver, own, lambda rank, part: None))
            self.sender.send(iter(tensors.items()))
            for each in reading:
                found = each.result()
                assert list(found) == list(tensors)
                assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_every_worker_reads_the_senders_two_buckets_and_all_memory_comes_back(tmp_path):
    stream = Stream(tmp_path)
    for version in (1, 2):
        stream.push(version)
        assert len(stream.memory.allocated) == 2 and len(stream.memory.opened) == 2 * 2
    first = set(stream.memory.opened)
    killed, stream.sender = stream.sender, stream.make_sender()  # workers have its memory open
    stream.push(3)
    assert not first & set(stream.memory.opened) and len(stream.memory.opened) == 2 * 2
    for receiver in stream.receivers:
        receiver.close()
    assert stream.memory.opened == []
    stream.sender.close()
    assert set(stream.memory.allocated) == first  # those of the one that was killed
    killed.close()
    assert not stream.memory.allocated


class Weights:
    """What both ranks of a trainer gather together."""

    adapter = None
    merge_error = None

    def __init__(self) -> None:
        self.gathered = 0

    def shapes(self):
        return [(name, each.dtype, tuple(each.shape)) for name, each in weights(1).items()]

    def tensors(self):
        for name, tensor in weights(1).items():
            self.gathered += 1
            yield name, tensor


class TwoRanks:
    """Two ranks of a trainer on GPUs of their own, and a generator on each GPU."""

    def __init__(self, root) -> None:
        self.memories = [Memory("GPU-a"), Memory("GPU-b")]
        self.weights = [Weights(), Weights()]
        self.receivers = [
            StreamReceiver(CudaIpcWire(each), directory=root) for each in self.memories
        ]
        self.publishers = [
            WeightPublisher(
                partial(self.weights.__getitem__, rank), senders=self.senders(rank, root)
            )
            for rank in range(2)
        ]

    def senders(self, rank: int, root) -> Senders:
        stream = StreamSender(
            CudaIpcWire(self.memories[rank]),
            run_id=f"ipc-{rank}",
            host="127.0.0.1",
            timeout_s=20.0,
            bucket_bytes=256,
            directory=root,
        )
        return Senders(stream=stream)

    def push(self, locator: Locator, receivers, *, load=lambda rank, part: None):
        """Return what the ranks and the workers from rank 1 on made of it."""
        with ThreadPoolExecutor(4) as pool:
            reading = []
            for rank, receiver in enumerate(receivers, start=1):
                own = replace(locator, where={**locator.where, "rank": rank})
                reading.append(pool.submit(Streamed.read, receiver, own, load))
            sending = [pool.submit(each.send, live=True) for each in self.publishers]
        return sending, reading

    def close(self) -> None:
        for each in (*self.receivers, *self.publishers):
            each.close()


SEATS = [seat(shared_memory_id(), gpus=(gpu,)) for gpu in ("GPU-b", "GPU-a")]


@pytest.fixture
def two_ranks(tmp_path):
    ranks = TwoRanks(tmp_path)
    yield ranks
    ranks.close()


def stage(ranks: TwoRanks, seats=SEATS) -> Locator:
    return joined(
        [each.stage(1, seats=seats, written=False) for each in ranks.publishers], seats=seats
    )


def arrived(read) -> bool:
    return all(torch.equal(read.result()[name], each) for name, each in weights(1).items())


def test_each_rank_sends_to_the_generator_on_its_own_gpu(two_ranks):
    first, second = two_ranks.memories
    sending, reading = two_ranks.push(stage(two_ranks), two_ranks.receivers[::-1])
    assert all(arrived(each) for each in reading) and not any(each.exception() for each in sending)
    assert all(set(memory.opened) == set(memory.allocated) for memory in (first, second))
    assert [each.gathered for each in two_ranks.weights] == [5, 5]


def test_who_comes_late_is_sent_to_by_its_own_rank_while_the_other_one_gathers(two_ranks):
    stage(two_ranks)
    alone = SEATS[:1]
    locator = joined(
        [each.announce_again(seats=alone) for each in two_ranks.publishers], seats=alone
    )
    sending, (read,) = two_ranks.push(locator, two_ranks.receivers[1:])
    assert arrived(read) and not any(each.exception() for each in sending)
    assert not two_ranks.memories[0].opened
    assert [each.gathered for each in two_ranks.weights] == [5, 5]


def test_a_generator_that_fails_ends_the_push_of_its_own_rank_alone(two_ranks):
    def refuse(rank, part):
        if rank == 1 and "large" in part:
            raise WeightPushError("no such layer")

    sending, reading = two_ranks.push(stage(two_ranks), two_ranks.receivers[::-1], load=refuse)
    assert arrived(reading[1]) and sending[0].exception() is None
    assert "no such layer" in str(reading[0].exception())
    assert isinstance(sending[1].exception(), WeightPushError)
    assert [each.gathered for each in two_ranks.weights] == [5, 5]  # the other rank waits in none


def test_a_gpu_without_a_rank_is_refused_with_its_name(two_ranks):
    seats = [*SEATS, seat(shared_memory_id(), gpus=("GPU-c",))]
    with pytest.raises(WeightPushError, match=r"no rank of the trainer is on GPU GPU-c"):
        stage(two_ranks, seats)


def test_memory_at_an_address_is_that_memory():
    there = torch.arange(10, dtype=torch.uint8)
    seen = memory_at(there.data_ptr(), 10, device=there.device)
    there[3] = 77
    assert seen.tolist() == [0, 1, 2, 77, 4, 5, 6, 7, 8, 9]
    assert seen.data_ptr() == there.data_ptr()


class Library:
    """Stands for ``libcudart``: fails as it is told, and remembers its last error as CUDA does."""

    def __init__(self) -> None:
        self.last_error, self.allocated_bytes = 0, []

    def cudaMalloc(self, pointer, size):
        self.allocated_bytes.append(size.value)
        self.last_error = 2
        return 2

    def cudaHostRegister(self, pointer, size, flags):
        assert flags.value == 1  # for all contexts
        self.last_error = 2
        return 2

    def cudaGetLastError(self):
        self.last_error = 0

    def cudaGetErrorString(self, code):
        return b"out of memory"


def test_an_error_is_named_and_not_left_for_torch_to_find(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    runtime, library = CudaRuntime.__new__(CudaRuntime), Library()
    runtime.device, runtime._library = torch.device("cpu"), library
    with pytest.raises(RuntimeError, match="cudaMalloc failed: out of memory"):
        runtime.allocate(1000)
    with pytest.raises(RuntimeError, match="cudaHostRegister failed: out of memory"):
        runtime.register(torch.zeros(10, dtype=torch.uint8))
    assert library.last_error == 0
    assert library.allocated_bytes == [2 << 20]  # a block of its own


def test_a_torch_without_cuda_is_named():
    assert cuda_runtime._loaded("libtorch_cpu")
    with pytest.raises(RuntimeError, match="libnothing is not loaded"):
        cuda_runtime._loaded("libnothing")
