"""The child process of a sandbox: ``python -m rlpost.verifiers.workers.worker FD PARENT_PID``.

Owns one loop: read samples, judge them on the main thread, reply. Refuses to own deadlines
and retries; the parent kills this process when it is late. Invariant: the user's code runs
only after the walls of isolation.py stand, so that nothing of it outlives the parent.
"""

import dataclasses
import functools
import os
import socket
import sys
from json import dumps, loads  # bound now: what a judge later does to the module changes nothing
from typing import Any

from rlpost.verifiers.base import DeclaredJudge, Judge
from rlpost.verifiers.kinds.build import build
from rlpost.verifiers.workers.channel import Channel
from rlpost.verifiers.workers.isolation import isolate
from rlpost.verifiers.workers.safe_call import answer_of, attempt, failed_reply
from rlpost.verifiers.workers.wire import decode_config, decode_sample


def main(fd: int, parent_pid: int) -> None:
    """Serve judgements on the socket ``fd`` until its other end closes."""
    isolate(parent_pid, channel=fd)
    channel = Channel(socket.socket(fileno=fd))
    first = channel.recv(timeout_s=None)
    if first is None:
        return
    hello = loads(first)
    judges: dict[str, Judge] = {}
    refusals: dict[str, str | None] = {}
    for name, plain in hello["configs"].items():
        judge, error = attempt(functools.partial(build, decode_config(plain)))
        if judge is not None:
            judges[name] = judge
        else:
            refusals[name] = error
    declared = {
        name: dataclasses.asdict(judge.declaration)
        for name, judge in judges.items()
        if isinstance(judge, DeclaredJudge)
    }
    _reply(channel, {"id": hello["id"], "refusals": refusals, "declared": declared})
    pid = os.getpid()
    while (frame := channel.recv(timeout_s=None)) is not None:
        request = loads(frame)
        name, samples = request["verifier"], list(map(decode_sample, request["samples"]))
        if name in refusals:
            answer: dict[str, Any] = {"replies": [failed_reply(refusals[name]) for _ in samples]}
        else:
            answer = answer_of(judges[name], samples)
        if os.getpid() != pid:
            os._exit(0)  # the judge forked and its child returned: one reply is enough
        _reply(channel, {"id": request["id"], **answer})


def _reply(channel: Channel, message: dict[str, Any]) -> None:
    channel.send(dumps(message).encode(), timeout_s=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
