"""What the plugin does to vLLM's processes; what it does to weights is in tests/system/."""

import subprocess
import sys

import psutil
import pytest

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
