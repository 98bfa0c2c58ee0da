"""The first thing a newcomer sees when the machine does not fit: one clear paragraph."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


preflight = load("preflight")


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 12, 0), (2, 7, 18)])
def test_another_python_is_named_with_a_way_out(version):
    message = preflight.check_python(version, "/opt/py")
    assert f"/opt/py is Python {version[0]}.{version[1]}" in message
    assert "make PYTHON=" in message
    assert preflight.check_python((3, 11, 9), "/opt/py") is None


def test_a_missing_compiler_is_found_by_path(tmp_path):
    assert "apt-get install g++" in preflight.check_compiler({"PATH": str(tmp_path)})
    compiler = tmp_path / "clang++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert preflight.check_compiler({"PATH": str(tmp_path)}) is None
    compiler.rename(tmp_path / "mycc")
    assert preflight.check_compiler({"PATH": str(tmp_path)}) is not None
    assert preflight.check_compiler({"PATH": str(tmp_path), "CXX": "mycc -O2"}) is None


def test_memory_is_the_smaller_of_machine_and_container(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    assert preflight.memory_bytes(str(tmp_path)) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    assert preflight.memory_bytes(str(tmp_path)) == 16_384_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert preflight.memory_bytes(str(tmp_path)) == 16_384_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("4000000000\n")
    assert preflight.memory_bytes(str(tmp_path)) == 4_000_000_000


def test_memory_and_disk_thresholds():
    assert "has 4.0 GB" in preflight.check_memory(4 * 10**9)
    assert preflight.check_memory(8 * 10**9) is None
    assert preflight.check_memory(None) is None
    assert "/data has 9.9 GB" in preflight.check_disk(99 * 10**8, "/data")
    assert preflight.check_disk(10**10, "/data") is None


def test_disk_is_asked_for_until_the_environment_is_installed(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=64 * 10**8)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda directory: usage)
    asked = preflight.problems(str(tmp_path), needs_disk=True)
    assert any("has 6.4 GB" in message for message in asked)
    assert not any("disk" in message for message in preflight.problems(str(tmp_path), False))


def test_another_platform_is_refused():
    assert "Darwin on arm64" in preflight.check_platform("Darwin", "arm64")
    assert preflight.check_platform("Linux", "x86_64") is None


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what set-up runs, so that nothing here can touch the real environment.

    It counts as installed: how much disk is free is a matter of the tests below alone.
    """
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    (tmp_path / "checkout/scripts/bootstrap.py").write_text("print('would install')\n")
    (tmp_path / "checkout/.venv").mkdir()
    (tmp_path / "checkout/.venv/.rlpost-ready").touch()
    return tmp_path / "checkout"


def set_up(checkout: Path, path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(checkout / "scripts/setup.sh")],
        env={"PATH": str(path), **environ},
        capture_output=True,
        text=True,
    )


def tools(path: Path, **programs: str) -> Path:
    """A directory for PATH with the shell's own needs and the given ``name=script``."""
    path.mkdir(exist_ok=True)
    (path / "dirname").symlink_to(str(shutil.which("dirname")))
    for name, script in programs.items():
        target = path / name.replace("_", ".").replace("xx", "++")
        target.write_text(f"#!/bin/sh\n{script}\n")
        target.chmod(0o755)
    return path


def test_no_python_at_all(checkout, tmp_path):
    result = set_up(checkout, tools(tmp_path / "bin"))
    assert result.returncode == 2
    assert "no Python found" in result.stderr


def test_a_named_python_that_does_not_run(checkout, tmp_path):
    result = set_up(checkout, tools(tmp_path / "bin"), PYTHON="/absent/python")
    assert result.returncode == 2
    assert "PYTHON=/absent/python does not run" in result.stderr


def test_a_broken_shim_is_passed_over(checkout, tmp_path):
    path = tools(
        tmp_path / "bin", python3_11="exit 127", python3=f'exec {sys.executable} "$@"', gxx="exit 0"
    )
    result = set_up(checkout, path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "would install\n"


def test_no_compiler_stops_before_anything_is_installed(checkout, tmp_path):
    result = set_up(checkout, tools(tmp_path / "bin"), PYTHON=sys.executable)
    assert result.returncode == 2
    assert "A C++ compiler is needed" in result.stderr
    assert result.stdout == ""


def test_preflight_needs_no_packages_and_passes_here():
    result = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "scripts/preflight.py")], capture_output=True,
        text=True, env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
