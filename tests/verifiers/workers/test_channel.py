import socket
import threading

import pytest

from rlpost.verifiers.workers.channel import Channel


@pytest.fixture
def ends():
    left, right = (Channel(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


def test_messages_keep_their_borders(ends):
    left, right = ends
    for message in (b"", b"a", b"bc"):
        left.send(message, timeout_s=60)
    assert [right.recv(timeout_s=60) for _ in range(3)] == [b"", b"a", b"bc"]


def test_large_message(ends):
    left, right = ends
    message = bytes(5_000_000)
    sender = threading.Thread(target=left.send, args=(message,), kwargs={"timeout_s": 60})
    sender.start()
    assert right.recv(timeout_s=60) == message
    sender.join()


def test_end_is_none(ends):
    left, right = ends
    left.close()
    assert right.recv(timeout_s=60) is None


def test_every_wait_has_a_deadline(ends):
    left, right = ends
    with pytest.raises(TimeoutError):
        right.recv(timeout_s=0.05)
    with pytest.raises(TimeoutError):
        left.send(bytes(50_000_000), timeout_s=0.05)


def test_too_large_message_is_refused(ends):
    left, right = ends
    left.send(b"12345", timeout_s=60)
    with pytest.raises(ConnectionError, match="5 bytes where 4 are allowed"):
        right.recv(timeout_s=60, max_bytes=4)
