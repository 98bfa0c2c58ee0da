"""Readings of machines other than this one."""

import stat
import sys
from pathlib import Path

import pytest

from rlpost.doctor import machine


def files(root: Path, **content: str) -> Path:
    for name, text in content.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\n"


def test_memory_of_a_plain_machine(tmp_path):
    reading = machine.memory(files(tmp_path, proc__meminfo=MEMINFO))
    assert (reading.total_bytes, reading.available_bytes) == (16_384_000_000, 8_192_000_000)


def test_a_container_limit_counts(tmp_path):
    root = files(tmp_path, proc__meminfo=MEMINFO)
    cgroup = root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text("4000\n")
    (cgroup / "memory.current").write_text("1000\n")
    reading = machine.memory(root)
    assert (reading.total_bytes, reading.available_bytes) == (4000, 3000)
    (cgroup / "memory.max").write_text("max\n")
    assert machine.memory(root).total_bytes == 16_384_000_000


def test_a_core_quota_counts(tmp_path):
    root = files(tmp_path)
    everything = machine.cores(root)
    assert everything >= 1
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    assert machine.cores(root) == 0.5
    (root / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert machine.cores(root) == everything


def test_cpu_features(tmp_path):
    assert machine.cpu_features(tmp_path) == frozenset()
    root = files(tmp_path, proc__cpuinfo="model name\t: X\nflags\t\t: fpu avx2 avx512_bf16\n")
    assert machine.cpu_features(root) == {"fpu", "avx2", "avx512_bf16"}


def fake_smi(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("row", "used", "errors"),
    [
        ("NVIDIA H100 80GB HBM3, 81559, 4, 0, 580.95.05", 4, 0),
        ("NVIDIA H100 80GB HBM3, 81559, 4096, 3, 580.95.05", 4096, 3),
        ("NVIDIA GeForce RTX 4090, 24564, 17, [N/A], 580.95.05", 17, 0),  # counts no errors
    ],
)
def test_a_gpu_that_answers(tmp_path, row, used, errors):
    (gpu,), error = machine.gpus(fake_smi(tmp_path / "smi", f"echo '{row}'"))
    assert error == ""
    assert gpu.name == row.split(",")[0]
    assert (gpu.used_mib, gpu.uncorrected_errors) == (used, errors)
    assert gpu.driver == "580.95.05"


def test_a_gpu_that_does_not_answer(tmp_path):
    script = "echo 'Unable to determine the device handle: GPU is lost'; exit 15"
    found, error = machine.gpus(fake_smi(tmp_path / "smi", script))
    assert found == []
    assert "GPU is lost" in error
    assert machine.gpus(str(tmp_path / "absent")) == ([], "")


def test_lock_pins_and_installed_names_meet(tmp_path):
    (tmp_path / "cpu.lock").write_text("# made by\npytest==1.0\ntypes-pyyaml==6\n")
    pins = machine.lock_pins(tmp_path / "cpu.lock")
    assert pins == {"pytest": "1.0", "types-pyyaml": "6"}
    assert set(pins) <= set(machine.installed())
    assert machine.lock_pins(tmp_path / "absent") == {}


def test_this_machine_reaches_itself():
    assert machine.can_connect_to_itself() is None


def test_a_copy_further_down_the_path_does_not_count(tmp_path, monkeypatch):
    for room, version in (("first", "26.3"), ("vendored", "24.2")):
        info = tmp_path / room / f"made_up-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: made_up\nVersion: {version}\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "vendored")])
    assert machine.installed() == {"made-up": "26.3"}


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda = '12.8'", "12.8"),
        ("cuda: str = None", None),
    ],
)
def test_the_cuda_that_torch_is_built_for(line, version):
    text = f"__version__ = '2.13.0'\n{line}\nhip: Optional[str] = '6.0'\n"
    assert machine.cuda_of_torch(text) == version


def test_the_installed_torch_says_the_same():
    import torch

    assert machine.torch_cuda() == torch.version.cuda
