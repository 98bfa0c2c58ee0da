"""Readings of a node, and that they survive the way to the node that judges."""

import socket

from rlpost.doctor.node_reading import NodeReading, can_listen, read_node


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
