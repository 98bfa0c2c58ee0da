"""The child process of a sandbox: ``python -m rlpost.verifiers.worker FD PARENT_PID``.

Owns one loop: read samples, judge them on the main thread, reply. Refuses to own deadlines
and retries; the parent kills this process when it is late. Invariant: this process does not
outlive its parent.
"""

import ctypes
import functools
import os
import resource
import signal
import socket
import sys
from json import dumps, loads  # bound now: what a judge later does to the module changes nothing
from typing import Any

from rlpost.verifiers.base import Judge
from rlpost.verifiers.boundary import attempt, failed_reply, reply_of
from rlpost.verifiers.channel import Channel
from rlpost.verifiers.kinds import build
from rlpost.verifiers.wire import decode_config, decode_sample

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(fd: int, parent_pid: int) -> None:
    """Serve judgements on the socket ``fd`` until its other end closes."""
    _die_with(parent_pid)
    channel = Channel(socket.socket(fileno=fd))
    first = channel.recv(timeout_s=None)
    if first is None:
        return
    hello = loads(first)
    if hello["memory_limit_mb"] is not None:
        limit = hello["memory_limit_mb"] << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    judges: dict[str, Judge] = {}
    refusals: dict[str, str | None] = {}
    for name, plain in hello["configs"].items():
        judge, error = attempt(functools.partial(build, decode_config(plain)))
        if judge is not None:
            judges[name] = judge
        else:
            refusals[name] = error
    _reply(channel, {"id": hello["id"], "refusals": refusals})
    pid = os.getpid()
    while (frame := channel.recv(timeout_s=None)) is not None:
        request = loads(frame)
        name, samples = request["verifier"], map(decode_sample, request["samples"])
        if name in refusals:
            replies = [failed_reply(refusals[name]) for _ in samples]
        else:
            replies = [reply_of(judges[name], sample) for sample in samples]
        if os.getpid() != pid:
            os._exit(0)  # the judge forked and its child returned: one reply is enough
        _reply(channel, {"id": request["id"], "replies": replies})


def _reply(channel: Channel, message: dict[str, Any]) -> None:
    channel.send(dumps(message).encode(), timeout_s=None)


def _die_with(parent_pid: int) -> None:
    # The closing socket ends a worker that waits for work. One that is busy, perhaps inside
    # C code that holds the interpreter, can only be ended by the kernel.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
