"""Counts what is really started: Ray sessions, vLLM engines and DeepSpeed engines.

Python runs a file of this name whenever it starts, if its directory is in PYTHONPATH; budget.py
puts it there, so every process below pytest counts. Each start appends a line "ROOM KIND" to the
file that STARTS_FILE names, in one write, so that processes cannot mix theirs.
"""

import functools
import importlib.machinery
import os
import sys

# What runs once per start and nowhere else, by the module that holds it.
STARTS = {
    "ray._private.node": ("Node", "start_head_processes", "ray_sessions"),
    "vllm.v1.engine.core": ("EngineCore", "__init__", "vllm_boots"),
    "deepspeed.runtime.engine": ("DeepSpeedEngine", "__init__", "deepspeed_starts"),
}


class StartCounter:
    """Finds the modules of ``STARTS`` as Python itself does, and has them count."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in STARTS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                holder, method, kind = STARTS[name]
                counting(getattr(module, holder), method, kind)

            spec.loader.exec_module = exec_module
        return spec


def counting(holder, method, kind):
    """Have ``holder.method`` note a start of ``kind`` before it runs."""
    plain = getattr(holder, method)

    @functools.wraps(plain)
    def noted(*args, **kwargs):
        line = f"{os.environ['STARTS_ROOM']} {kind}\n".encode()
        file = os.open(os.environ["STARTS_FILE"], os.O_WRONLY | os.O_APPEND)
        os.write(file, line)
        os.close(file)
        return plain(*args, **kwargs)

    setattr(holder, method, noted)


if "STARTS_FILE" in os.environ:
    sys.meta_path.insert(0, StartCounter)
