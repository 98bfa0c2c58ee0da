"""Nodes that meet before a run: each says something, all add numbers up, who is missing is known.

Owns the TCP store and the collective of a preflight. Refuses to own what is said and judged
(doctor/). Invariant: every wait ends at its deadline.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rlpost.errors import NoAnswer
from rlpost.network import serve_store

# A node that answers late still gets this much, so that it is heard and not merely missed.
LEAST_WAIT_S = 0.1


class Rendezvous:
    """One node's end of a meeting; rank 0 is the host.

    Args:
        names: the nodes in rank order.
        rank: which of them this is.
        address: of rank 0, as the others reach it.
        port: free on rank 0.
        timeout_s: how long to wait for rank 0.

    Raises:
        NoAnswer: rank 0 cannot be reached in time.
    """

    def __init__(
        self, names: Sequence[str], *, rank: int, address: str, port: int, timeout_s: float
    ) -> None:
        from torch.distributed import DistError, TCPStore

        self._names, self._rank = names, rank
        timeout = timedelta(seconds=timeout_s)
        try:
            if rank == 0:
                self._store = serve_store(address, port, timeout=timeout)
            else:
                self._store = TCPStore(address, port, timeout=timeout)
        except (DistError, RuntimeError, OSError) as error:
            why = str(error).partition("\n")[0]
            raise NoAnswer(
                f"{names[0]} does not answer {names[rank]} at {address}:{port} ({why})"
            ) from error

    def say(self, topic: str, text: str) -> None:
        """Leave ``text`` for the others."""
        self._store.set(f"{topic}/{self._rank}", text)

    def hear(self, topic: str, *, timeout_s: float, of: Sequence[str] = ()) -> dict[str, str]:
        """Return what nodes said, by name; those that said nothing in time are absent.

        Args:
            topic: what about.
            timeout_s: for all of them together.
            of: whom to listen to; everybody by default.
        """
        from torch.distributed import DistError

        until = time.monotonic() + timeout_s
        heard = {}
        for rank, name in enumerate(self._names):
            if of and name not in of:
                continue
            key = f"{topic}/{rank}"
            left_s = max(LEAST_WAIT_S, until - time.monotonic())
            try:
                self._store.wait([key], timedelta(seconds=left_s))
                heard[name] = self._store.get(key).decode()
            except (DistError, RuntimeError):
                continue
        return heard

    def add_up(self, interface: str, *, timeout_s: float) -> float:
        """All-reduce rank + 1 over ``interface``: n * (n + 1) / 2 says that all took part.

        Raises:
            NoAnswer: a peer is missing, cut off or too late, in gloo's own words.
        """
        import torch
        from torch.distributed import AllreduceOptions, DistError, PrefixStore, ProcessGroupGloo

        options: Any = ProcessGroupGloo._Options()
        number = torch.tensor([float(self._rank + 1)])
        try:
            options._devices = [ProcessGroupGloo.create_device(interface=interface)]
            options._timeout = timedelta(seconds=timeout_s)
            store = PrefixStore("add_up", self._store)
            group = ProcessGroupGloo(store, self._rank, len(self._names), options)
            group.allreduce([number], AllreduceOptions()).wait()
        except (DistError, RuntimeError) as error:
            raise NoAnswer(str(error).partition("\n")[0]) from error
        return float(number)
