"""A process that is killed in the middle of a bucket: everybody else learns it, and goes on."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fakes import seat
from streams import Streamed

from rlpost.errors import WeightPushError
from rlpost.weights.manifest import describe
from rlpost.weights.transports.gloo_wire import GlooWire
from rlpost.weights.transports.protocol import Locator
from rlpost.weights.transports.shared_memory import shared_memory_id
from rlpost.weights.transports.stream_receiver import StreamReceiver
from rlpost.weights.transports.stream_sender import StreamSender

BUCKET_BYTES = 8 << 20  # more than sockets hold
SEATS = [seat("left", num_workers=2), seat(shared_memory_id()), seat("right")]
HOSTS = ["left", "left", None, "right"]
TIMEOUT_S = 90.0
NOTICED_S = 30.0


def weights():
    return {f"layer{n}": torch.full((BUCKET_BYTES,), n, dtype=torch.uint8) for n in range(6)}


def make_sender(root: Path) -> StreamSender:
    (root / "own").mkdir()
    return StreamSender(
        GlooWire(),
        run_id="killed",
        host="127.0.0.1",
        timeout_s=TIMEOUT_S,
        bucket_bytes=BUCKET_BYTES,
        directory=root / "own",
    )


def announce(sender: StreamSender) -> Locator:
    shapes = [(name, each.dtype, tuple(each.shape)) for name, each in weights().items()]
    return sender.announce(describe(shapes, version=1), seats=SEATS)


def receive(root: Path, rank: int, locator: Locator, pipe=None) -> dict[str, torch.Tensor]:
    host = HOSTS[rank - 1]
    directory = root / (host or "own")
    directory.mkdir(exist_ok=True)
    receiver = StreamReceiver(GlooWire(), memory=host, directory=directory)
    wire = Locator(**{**vars(locator), "where": {**locator.where, "rank": rank}})

    def load(_, part) -> None:
        if pipe is not None and "layer1" in part:
            pipe.send("in the middle")
            time.sleep(600)

    return Streamed.read(receiver, wire, load)


def receives_until_killed(root: Path, locator: Locator, pipe) -> None:
    receive(root, 1, locator, pipe)


def sends_until_killed(root: Path, pipe) -> None:
    sender = make_sender(root)
    pipe.send(announce(sender))

    def tensors():
        for name, tensor in weights().items():
            if name == "layer2":
                pipe.send("in the middle")
                time.sleep(600)
            yield name, tensor

    sender.send(tensors())


@pytest.mark.parametrize("dies", ["the worker that receives for a host", "the sender"])
def test_a_kill_in_the_middle_is_noticed_long_before_the_deadline(tmp_path, dies):
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    sender = None
    if dies == "the sender":
        process = spawn.Process(target=sends_until_killed, args=(tmp_path, theirs))
        process.start()
        locator = ours.recv()
        ranks = (1, 2, 3, 4)
    else:
        sender = make_sender(tmp_path)
        locator = announce(sender)
        process = spawn.Process(target=receives_until_killed, args=(tmp_path, locator, theirs))
        process.start()
        ranks = (2, 3, 4)
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(receive, tmp_path, rank, locator) for rank in ranks]
        if sender is not None:
            waiting.append(pool.submit(sender.send, iter(weights().items())))
        assert ours.recv() == "in the middle"
        process.kill()
        killed_s = time.monotonic()
        for each in waiting:
            with pytest.raises(WeightPushError):
                each.result(TIMEOUT_S)
        assert time.monotonic() - killed_s < NOTICED_S
    process.join()
    if sender is not None:
        sender.close()
