"""The interface that a collective should use is the one of the route, and nothing else listens."""

import os
from datetime import timedelta

import psutil
import pytest
from listening import listeners

from rlpost.network import (
    INTERFACE_VARIABLES,
    LOOPBACK,
    free_port,
    interface_to,
    listen,
    local_address,
    serve_store,
    use_interface_to,
)

TIMEOUT = timedelta(seconds=20)


def listens_on(port: int) -> set[str]:
    """The addresses on which this process listens at ``port``."""
    return {host for host, each in listeners() if each == port}


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


def test_what_a_person_chose_holds_for_a_network_and_not_for_this_host(monkeypatch):
    for name in INTERFACE_VARIABLES:
        monkeypatch.setenv(name, "ib7")
    monkeypatch.setattr("rlpost.network.local_address", lambda peer: peer)
    monkeypatch.setattr("rlpost.network.interface_to", lambda peer: f"to {peer}")
    use_interface_to("192.0.2.9")
    assert {os.environ[name] for name in INTERFACE_VARIABLES} == {"ib7"}
    use_interface_to(LOOPBACK)
    assert {os.environ[name] for name in INTERFACE_VARIABLES} == {f"to {LOOPBACK}"}
    for name in INTERFACE_VARIABLES:
        monkeypatch.delenv(name)
    use_interface_to("192.0.2.9")
    assert {os.environ[name] for name in INTERFACE_VARIABLES} == {"to 192.0.2.9"}


def test_a_store_listens_on_its_own_address_and_ends_with_it():
    from torch.distributed import TCPStore

    store = serve_store(LOOPBACK, timeout=TIMEOUT)
    port = store.port
    assert listens_on(port) == {LOOPBACK}
    TCPStore(LOOPBACK, port, timeout=TIMEOUT).set("key", "value")
    assert store.get("key") == b"value"
    del store
    assert listens_on(port) == set()


def test_torch_itself_would_listen_on_every_interface():
    """The negative control of the test above."""
    from torch.distributed import TCPStore

    store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
    assert listens_on(store.port) & {"::", "0.0.0.0"}


def test_an_address_of_another_host_and_a_taken_port_are_errors():
    with pytest.raises(OSError):
        listen("192.0.2.77")
    with listen(LOOPBACK) as taken, pytest.raises(OSError):
        serve_store(LOOPBACK, taken.getsockname()[1], timeout=TIMEOUT)
    assert 0 < free_port() < 65536
