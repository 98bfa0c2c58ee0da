"""Peak memory of each host while payloads are streamed over gloo, and how many bytes it received.

Processes stand for hosts: each has a directory of shared memory of its own, so that none sees what
another holds. Each worker has a part of the model in kernels of its own, as the workers of one
engine have, and loads it from every bucket. A host's memory is what is private to its processes and
what lies in its files, above what it had before the first push, when it had its kernels: so a push
may add two buckets, whatever the model's size. The sampler looks every 20 ms.

    .venv/bin/python benchmarks/push_memory.py --mib 256 --hosts 2 --workers 4 --pushes 4
"""

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from rlpost.weights.manifest import describe
from rlpost.weights.transports.gloo_wire import GlooWire
from rlpost.weights.transports.protocol import Locator, Seat
from rlpost.weights.transports.shared_memory import shared_memory_directory
from rlpost.weights.transports.stream_receiver import StreamReceiver
from rlpost.weights.transports.stream_sender import StreamSender

MIB = 2**20
LAYER_BYTES = 16 * MIB


def worker(host: str, directory: Path, part: tuple[int, int], pipe: Any) -> None:
    """Load so many bytes of each layer into kernels, as an engine's worker does."""
    receiver = StreamReceiver(GlooWire(), memory=host, directory=directory)
    part_bytes, num_layers = part
    kernels = torch.ones(num_layers, part_bytes, dtype=torch.uint8)
    kernels.sum()
    pipe.send(0)
    while (locator := pipe.recv()) is not None:
        layers = iter(kernels)
        with closing(receiver.buckets(locator)) as buckets:
            for tensors in buckets:
                for _, tensor in tensors:
                    next(layers).copy_(tensor[:part_bytes])
        assert next(layers, None) is None, "layers are missing"
        pipe.send(receiver.taken_bytes)
    receiver.close()


def trainer(
    root: Path, size_bytes: int, bucket_bytes: int, seats: Sequence[Seat], pipe: Any
) -> None:
    """Send payloads that differ; the model itself is one tensor of a layer."""
    sender = StreamSender(
        GlooWire(),
        run_id=f"memory-{root.name}",
        host="127.0.0.1",
        timeout_s=None,
        bucket_bytes=bucket_bytes,
    )
    layer = torch.zeros(LAYER_BYTES, dtype=torch.uint8)
    names = [f"layer{n}" for n in range(size_bytes // LAYER_BYTES)]
    shapes = [(name, torch.uint8, (LAYER_BYTES,)) for name in names]
    pipe.send(0)
    while (version := pipe.recv()) is not None:
        weights = (
            (name, layer.fill_((version + number) % 251)) for number, name in enumerate(names)
        )
        pipe.send(sender.announce(describe(shapes, version=version), seats=seats))
        sender.send(weights)
        pipe.send(0)
    sender.close()


def held_bytes(processes: Sequence[multiprocessing.Process], files: Iterable[Path]) -> int:
    """What is private to processes, and what lies in files of shared memory, mapped or not."""
    private = 0
    for each in processes:
        for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                private += int(line.split()[1]) * 1024
    return private + sum(path.stat().st_blocks * 512 for path in files if path.exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=256, help="of a payload; a multiple of 16")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4, help="that receive, on each host")
    parser.add_argument("--pushes", type=int, default=4)
    parser.add_argument("--bucket-mib", type=int, default=64)
    args = parser.parse_args()
    size_bytes, bucket_bytes = args.mib * MIB, args.bucket_mib * MIB
    part = (LAYER_BYTES // args.workers, size_bytes // LAYER_BYTES)
    spawn = multiprocessing.get_context("spawn")
    # Files that are shared have to be in memory.
    root = Path(tempfile.mkdtemp(prefix="push-memory-", dir=shared_memory_directory()))
    hosts = [f"host{n}" for n in range(args.hosts)]
    seats = [Seat(memory=host, num_workers=args.workers) for host in hosts]
    members: dict[str, list[Any]] = {}
    pipes = []
    try:
        for host in hosts:
            (root / host).mkdir()
            for _ in range(args.workers):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=worker, args=(host, root / host, part, theirs))
                process.start()
                members.setdefault(host, []).append(process)
                pipes.append(ours)
        sending, theirs = spawn.Pipe()
        process = spawn.Process(
            target=trainer, args=(root, size_bytes, bucket_bytes, seats, theirs)
        )
        process.start()
        members["trainer"] = [process]
        for pipe in (*pipes, sending):
            pipe.recv()
        run_id = f"memory-{root.name}"

        def held(host: str) -> int:
            written = shared_memory_directory().glob(f"rlpost-{run_id}-*")
            files = written if host == "trainer" else (root / host).iterdir()
            return held_bytes(members[host], list(files))

        before = {host: held(host) for host in members}
        peak = dict.fromkeys(members, 0)
        for version in range(1, args.pushes + 1):
            start_s = time.perf_counter()
            sending.send(version)
            locator = sending.recv()
            for rank, pipe in enumerate(pipes, start=1):
                pipe.send(Locator(**{**vars(locator), "where": {**locator.where, "rank": rank}}))
            while not all(pipe.poll() for pipe in (*pipes, sending)):
                for host in members:
                    peak[host] = max(peak[host], held(host) - before[host])
                time.sleep(0.02)
            taken = [pipe.recv() for pipe in pipes]
            sending.recv()
            print(f"push {version}: {time.perf_counter() - start_s:.2f} s")
        print(f"a payload has {args.mib} MiB, two buckets {2 * args.bucket_mib} MiB")
        for host, largest in peak.items():
            print(f"  {host}: at most {largest / MIB:.0f} MiB more than before the first push")
        print(f"  bytes received, in payloads: {[each / size_bytes for each in taken]}")
    finally:
        for pipe in (*pipes, sending):
            pipe.send(None)
        for process in (each for own in members.values() for each in own):
            process.join(20)
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
