"""Readings of a node, and that they survive the way to the node that judges."""

import socket
import stat
from pathlib import Path

import pytest

from rlpost.doctor.node import NodeReading, can_listen, gpu_health, read_node


def fake_smi(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_reading_survives_its_journey(tmp_path):
    environ = {"SLURM_GPUS_ON_NODE": "2", "GLOO_SOCKET_IFNAME": "ib7"}
    reading = read_node("n1", head_address="127.0.0.1", disks=[tmp_path], ports=[], environ=environ)
    assert reading.versions["ray"] and reading.versions["python"].startswith("3.")
    assert reading.disks[str(tmp_path)] > 0
    assert reading.promised_gpus == 2
    assert reading.interface == "ib7"  # what a person set is what the run will use
    assert NodeReading.from_json(reading.to_json()) == reading


def test_a_head_without_a_route_is_said():
    reading = read_node("n1", head_address="nowhere.invalid", disks=[], ports=[], environ={})
    assert reading.interface == ""
    assert "nowhere.invalid" in reading.network_error


def test_taken_ports_are_listed():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert not can_listen(port)
        reading = read_node("n1", head_address="127.0.0.1", disks=[], ports=[port], environ={})
        assert reading.taken_ports == [port]
    assert can_listen(port)


@pytest.mark.parametrize(
    ("row", "used", "errors"),
    [
        ("NVIDIA H100 80GB HBM3, 81559, 4, 0", 4, 0),
        ("NVIDIA H100 80GB HBM3, 81559, 4096, 3", 4096, 3),
        ("NVIDIA GeForce RTX 4090, 24564, 17, [N/A]", 17, 0),  # counts no errors
    ],
)
def test_a_gpu_that_answers(tmp_path, row, used, errors):
    (gpu,), error = gpu_health(fake_smi(tmp_path / "smi", f"echo '{row}'"))
    assert error == ""
    assert gpu.name == row.split(",")[0]
    assert (gpu.used_mib, gpu.uncorrected_errors) == (used, errors)


def test_a_gpu_that_does_not_answer(tmp_path):
    script = "echo 'Unable to determine the device handle: GPU is lost'; exit 15"
    gpus, error = gpu_health(fake_smi(tmp_path / "smi", script))
    assert gpus == []
    assert "GPU is lost" in error
    assert gpu_health(str(tmp_path / "absent")) == ([], "")
