"""A connection of each member to the sender, which its kernel closes when the member dies.

Owns these sockets. Refuses to own bytes and groups: gloo does not always notice that a peer which
it sends to has gone, and waits for its deadline then. Invariant: a member that died is named within
about a second, whatever its group does.
"""

import socket
from collections.abc import Mapping

from rlpost.errors import WeightPushError
from rlpost.network import listen

_ID_BYTES = 32  # of a process, as hexadecimal digits


class Watch:
    """The sender's end.

    Args:
        host: address to listen on.
    """

    def __init__(self, host: str) -> None:
        self._listener = listen(host)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._connections: dict[str, socket.socket] = {}

    def look(self, members: Mapping[str, str]) -> None:
        """Return if nobody died who was there.

        Args:
            members: name -> id of the process.

        Raises:
            WeightPushError: names who did.
        """
        self._accept()
        for name, process in members.items():
            connection = self._connections.get(process)
            if connection is not None and _is_closed(connection):
                self._connections.pop(process).close()
                raise WeightPushError(f"the worker that receives for {name.split()[0]} is gone")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection.settimeout(1.0)
            try:
                process = connection.recv(_ID_BYTES, socket.MSG_WAITALL).decode(errors="replace")
            except OSError:  # a stranger who says nothing
                connection.close()
                continue
            self._connections[process] = connection

    def keep(self, members: Mapping[str, str]) -> None:
        """Close the connections of all others."""
        self._accept()
        for process in self._connections.keys() - set(members.values()):
            self._connections.pop(process).close()

    def close(self) -> None:
        """Close everything."""
        for each in (self._listener, *self._connections.values()):
            each.close()
        self._connections.clear()


def watched(host: str, port: int, *, process: str, timeout_s: float) -> socket.socket:
    """Return the connection of a member, which lives while it is open.

    Raises:
        WeightPushError: the sender does not listen.
    """
    try:
        connection = socket.create_connection((host, port), timeout=timeout_s)
        connection.sendall(process.encode())
    except OSError as error:
        raise WeightPushError(
            f"the sender at {host} port {port} does not answer: {error}"
        ) from error
    return connection


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
