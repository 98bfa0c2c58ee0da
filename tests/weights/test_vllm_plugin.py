"""What the plugin does to vLLM's processes; what it does to weights is in tests/system/."""

import subprocess
import sys

import psutil
import pytest
import torch
from fakes import seat

from rlpost.weights.manifest import write_payload
from rlpost.weights.transports.shared_memory import SharedMemoryReceiver, SharedMemorySender
from rlpost.weights.vllm_plugin import StagedEngine, StagedUpdateInfo, sent_names

PARENT = """
import multiprocessing, sys, time

def child(registers, started):
    if registers:
        from rlpost.weights.vllm_plugin import register
        register()
    started.set()
    time.sleep(120)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=child, args=(sys.argv[1] == "True", started))
    process.start()
    started.wait(100)
    print(process.pid, flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize("registers", [True, False])
def test_an_engine_process_ends_with_the_one_that_started_it(tmp_path, registers):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(registers)], stdout=subprocess.PIPE, text=True
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    try:
        child.wait(timeout=10 if registers else 1)
        survived = False
    except psutil.TimeoutExpired:
        survived = True
        child.kill()
    parent.stdout.close()
    assert survived is not registers


def test_an_undo_loads_what_was_committed_or_refuses(tmp_path):
    """The sender reuses the pages of a released version; the engine's kernels are left out."""
    sender, receiver = SharedMemorySender(run_id=tmp_path.name), SharedMemoryReceiver()
    loaded = []
    engine = StagedEngine.__new__(StagedEngine)
    engine._receivers = {"shared_memory": receiver}
    engine._staged = engine._loaded = engine._committed = None
    engine._empty = False
    engine._load = lambda tensors: loaded.append(dict(tensors)["w"].tolist())

    def push(version: int) -> None:
        weights = {"w": torch.full((3,), float(version))}
        buffer = sender.buffer(64, version=version)
        manifest = write_payload(iter(weights.items()), buffer, version=version)
        sent = sender.announce(manifest, seats=[seat()])
        engine.start_weight_update()
        engine.receive_weights(
            StagedUpdateInfo(transport=sent.transport, manifest=sent.manifest, where=sent.where)
        )
        engine.finish_weight_update()

    try:
        assert engine.rollback() and not loaded  # nothing has changed yet
        push(1)
        assert not engine.rollback()  # nothing was ever committed
        engine.commit()
        push(2)
        assert engine.rollback() and loaded == [[1.0] * 3, [2.0] * 3, [1.0] * 3]
        engine.forget_kernels()  # as after a sleep: nothing is there, whatever was committed
        assert engine.rollback() and loaded.pop() == [1.0] * 3
        assert engine.rollback() and len(loaded) == 3, "once is enough"
        sender.release(2)
        push(3)
        sender.release(1)  # it missed this commit
        push(4)  # in the pages of version 1
        assert not engine.rollback() and loaded[3:] == [[3.0] * 3, [4.0] * 3]
    finally:
        sender.close()


def test_a_payload_sets_what_is_the_models_and_no_scale_of_the_engine():
    names = ["layers.0.mlp.up_proj.base_layer.weight", "layers.0.attn.k_scale", "norm.weight_scale"]
    assert sent_names(names) == {"layers.0.mlp.up_proj.weight", "norm.weight_scale"}
