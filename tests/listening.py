"""Who listens: the sockets through which this process and those below it can be reached."""

import psutil


def listeners(*, below: bool = False) -> set[tuple[str, int]]:
    """Addresses and ports at which this process, and with ``below`` its descendants, listen.

    IPv4 addresses are written plainly, also where a socket speaks both families.
    """
    me = psutil.Process()
    connections = []
    for process in [me, *(me.children(recursive=True) if below else ())]:
        try:
            connections += process.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
    return {
        (each.laddr.ip.removeprefix("::ffff:"), each.laddr.port)
        for each in connections
        if each.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and each.laddr
    }
