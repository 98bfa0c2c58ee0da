"""Length-prefixed messages over a socket, every wait with a deadline.

Owns the frames between a sandbox and its worker. Refuses to know what they say (wire.py).
"""

import socket
import struct
import time
from multiprocessing.connection import wait

_LENGTH = struct.Struct("!Q")


class OversizedMessage(ConnectionError):
    """The peer announced more bytes than it may send."""


class Channel:
    """One end of a socket pair.

    ``send`` and ``recv`` raise ``TimeoutError`` at their deadline (None: never) and
    ``OSError`` when the peer is gone; ``recv`` returns None at a clean end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def readable(self) -> bool:
        """Whether the peer has written, or is gone."""
        return bool(wait([self._socket.fileno()], 0))

    def send(self, payload: bytes, *, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)
        self._socket.sendall(_LENGTH.pack(len(payload)) + payload)

    def recv(self, *, timeout_s: float | None, max_bytes: int | None = None) -> bytes | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        header = self._exactly(_LENGTH.size, deadline)
        if header is None:
            return None
        (length,) = _LENGTH.unpack(header)
        if max_bytes is not None and length > max_bytes:
            raise OversizedMessage(f"a message of {length} bytes where {max_bytes} are allowed")
        return self._exactly(length, deadline)

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, length: int, deadline: float | None) -> bytes | None:
        chunks, missing = [], length
        while missing:
            if deadline is not None:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError
                self._socket.settimeout(remaining)
            else:
                self._socket.settimeout(None)
            chunk = self._socket.recv(min(missing, 1 << 20))
            if not chunk:
                return None
            chunks.append(chunk)
            missing -= len(chunk)
        return b"".join(chunks)
