"""Addresses, interfaces and ports that connect this host to others.

Owns the look-up in the routing table and the stores in which ranks find each other. Refuses to own
what is sent. Invariant: every socket that listens is bound to one address, never to all interfaces.
"""

import ipaddress
import os
import socket
from datetime import timedelta
from typing import Any

import psutil

# Gloo and NCCL read these variables.
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = "127.0.0.1"
BACKLOG = 2048  # connections that wait to be accepted: torch's own number


def local_address(peer: str) -> str:
    """Return the source address of packets from this host to ``peer``.

    Raises:
        OSError: there is no route to ``peer``, or it is not an address.
    """
    family, kind, protocol, _, where = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(where)  # on a datagram socket this picks the route and sends nothing
        return str(probe.getsockname()[0])


def interface_to(peer: str) -> str:
    """Return the interface that carries packets to ``peer``: ``ib0``, ``eth1``, ``lo``.

    Raises:
        OSError: there is no route to ``peer``, or its interface has no name here.
    """
    address = local_address(peer)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    raise OSError(f"no interface of this host has the address {address}")


def use_interface_to(peer: str) -> None:
    """Make the collectives of this process use the interface that leads to ``peer``.

    Without this, gloo takes the interface that the host's own name resolves to, which may be the
    wrong one or none. An interface that the user chose for a network stays; a ``peer`` on this host
    is reached over loopback whatever the user chose, so that no other host can connect.
    """
    chosen = dict.fromkeys(INTERFACE_VARIABLES, interface_to(peer))
    if not ipaddress.ip_address(local_address(peer).partition("%")[0]).is_loopback:
        chosen |= {name: os.environ[name] for name in INTERFACE_VARIABLES if name in os.environ}
    os.environ |= chosen


def listen(host: str, port: int = 0) -> socket.socket:
    """Return a TCP socket that listens on ``host`` alone; port 0 takes a free one.

    Raises:
        OSError: ``host`` is not an address of this host, or the port is taken.
    """
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)


def free_port(host: str = LOOPBACK) -> int:
    """Return a TCP port of ``host`` that was free a moment ago."""
    with listen(host) as probe:
        return int(probe.getsockname()[1])


def serve_store(host: str, port: int = 0, *, timeout: timedelta, num_clients: int = 0) -> Any:
    """Serve a TCP store on ``host`` alone; by itself torch listens on every interface.

    Args:
        host: an address of this host.
        port: 0 takes a free one; the store's ``port`` says which.
        timeout: of every wait in the store.
        num_clients: how many processes to wait for, this one included; 0: do not wait.

    Raises:
        OSError: ``host`` is not an address of this host, or the port is taken.
    """
    from torch.distributed import TCPStore

    listener = listen(host, port)
    return TCPStore(
        host,
        listener.getsockname()[1],
        num_clients or None,
        is_master=True,
        timeout=timeout,
        wait_for_workers=num_clients > 0,
        master_listen_fd=listener.detach(),  # the store closes it
    )
