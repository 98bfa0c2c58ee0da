"""Has every node of a job joined its Ray cluster, and if not, which one has not.

Owns the wait. Refuses to own the nodes (ray_node.py). Invariant: it ends at its deadline, and
names who is missing.
"""

import socket
from collections.abc import Callable, Collection, Sequence

import tenacity

from rlpost.errors import NoAnswer

LOOK_EVERY_S = 0.5


def await_nodes(
    names: Sequence[str], *, deadline_s: float, joined: Callable[[], Collection[str]]
) -> None:
    """Wait until all of ``names`` are among ``joined()``.

    Raises:
        NoAnswer: some are not there in time.
    """

    def missing_nodes() -> list[str]:
        present = joined()
        return [name for name in names if name not in present]

    try:
        tenacity.Retrying(
            stop=tenacity.stop_after_delay(deadline_s),
            wait=tenacity.wait_fixed(LOOK_EVERY_S),
            retry=tenacity.retry_if_result(bool),
        )(missing_nodes)
    except tenacity.RetryError as error:
        missing = ", ".join(error.last_attempt.result())
        raise NoAnswer(f"{missing} did not join the Ray cluster in {deadline_s:g} s") from error


def joined_nodes(address: str) -> Callable[[], list[str]]:
    """Return a function that asks the head at ``address`` for the names of its living nodes.

    Needs no Ray on this host; a head that does not answer has no nodes.
    """

    host, _, port = address.rpartition(":")

    def look() -> list[str]:
        from ray._raylet import GcsClient
        from ray.core.generated.gcs_pb2 import GcsNodeInfo
        from ray.exceptions import RaySystemError, RpcError

        try:  # a socket learns in no time what Ray's client needs 40 s to give up on
            socket.create_connection((host, int(port)), timeout=5.0).close()
            nodes = GcsClient(address=address).get_all_node_info(timeout=5.0).values()
        except (OSError, RpcError, RaySystemError):
            return []
        return [node.node_name for node in nodes if node.state == GcsNodeInfo.ALIVE]

    return look
