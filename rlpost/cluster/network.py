"""Which address and interface of this host carry its traffic to another.

Owns the question to the routing table. Refuses to own what is exported (ray_node.py).
Invariant: nothing is sent.
"""

import socket

import psutil

# Collectives look for these; what a person has set is left alone.
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def local_address(peer: str) -> str:
    """Return the address of this host that packets to ``peer`` carry.

    Raises:
        OSError: there is no route to ``peer``, or it is no address.
    """
    family, kind, protocol, _, where = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(where)  # of a datagram socket: decides the route and sends nothing
        return str(probe.getsockname()[0])


def interface_to(peer: str) -> str:
    """Return the interface that carries packets to ``peer``: ``ib0``, ``eth1``, ``lo``.

    Raises:
        OSError: there is no route to ``peer``, or its interface has no name here.
    """
    address = local_address(peer)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    raise OSError(f"no interface of this host has the address {address}")
