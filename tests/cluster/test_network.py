"""The interface that a collective should use is the one of the route."""

import psutil
import pytest

from rlpost.cluster.network import interface_to, local_address


def test_loopback_is_reached_over_loopback():
    assert local_address("127.0.0.1") == "127.0.0.1"
    name = interface_to("127.0.0.1")
    assert "127.0.0.1" in [each.address for each in psutil.net_if_addrs()[name]]


def test_an_address_of_this_host_is_reached_over_loopback_or_its_interface():
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if each.family.name == "AF_INET" and psutil.net_if_stats()[name].isup:
                assert interface_to(each.address) == name


def test_what_is_no_address_has_no_route():
    with pytest.raises(OSError):
        interface_to("nowhere.invalid")
