"""What the plugin does to vLLM's processes; what it does to weights is in tests/system/."""

import re
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from forks import Forked

from rlpost.weights.manifest import write_payload
from rlpost.weights.transports.filesystem import FilesystemSender
from rlpost.weights.transports.shared_memory import SharedMemorySender
from rlpost.weights.vllm_plugin import BucketEngine, WorkerExtension

PARENT = """
import multiprocessing, sys, time

def child(registers, started):
    if registers:
        from rlpost.weights.vllm_plugin import register
        register()
    started.set()
    time.sleep(120)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=child, args=(sys.argv[1] == "True", started))
    process.start()
    started.wait(100)
    print(f"child {process.pid}", flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize("registers", [True, False])
def test_an_engine_process_ends_with_the_one_that_started_it(tmp_path, registers):
    script, output = tmp_path / "parent.py", tmp_path / "output"
    script.write_text(PARENT)
    parent = Forked([str(script), str(registers)], output=output)
    while not (told := re.search(r"^child (\d+)$", output.read_text(), re.MULTILINE)):
        assert parent.poll() is None, output.read_text()
        time.sleep(0.05)
    child = psutil.Process(int(told[1]))
    parent.kill()
    parent.wait()
    try:
        child.wait(timeout=60 if registers else 1)
        survived = False
    except psutil.TimeoutExpired:
        survived = True
        child.kill()
    assert survived is not registers


def worker() -> WorkerExtension:
    """As vLLM makes one: a class of its own that is mixed with ours."""
    device = torch.device("cpu")
    made = type("Worker", (WorkerExtension,), {"device": device})()
    settings = SimpleNamespace(
        load_config=SimpleNamespace(load_format="auto"), parallel_config=None, model_config=None
    )
    made.weight_transfer_engine = BucketEngine(
        SimpleNamespace(), settings, device, torch.nn.Linear(1, 1)
    )
    return made


def test_a_worker_without_a_gpu_names_none():
    assert worker().rlpost_gpu() is None


@pytest.mark.parametrize("transport", ["shared_memory", "filesystem"])
def test_a_worker_receives_what_lies_on_its_host(transport, tmp_path):
    staged = (
        SharedMemorySender(run_id=tmp_path.name)
        if transport == "shared_memory"
        else FilesystemSender(root=tmp_path)
    )
    engine = worker().weight_transfer_engine
    try:
        pages = staged.buffer(64, version=1)
        manifest = write_payload(iter({"x": torch.ones(3)}.items()), pages, version=1)
        (part,) = engine.buckets(staged.announce(manifest, seats=[]))
        assert [(name, tensor.tolist()) for name, tensor in part] == [("x", [1.0] * 3)]
    finally:
        engine.shutdown()
        staged.close()
