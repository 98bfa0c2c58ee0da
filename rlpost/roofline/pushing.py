"""How long new weights take from the trainer to the engines, by transport.

Owns the rates. Of rlpost's own transports they follow from what one H100 and two CPU machines
measured (docs/benchmarks.md, docs/scale.md); those of ``gathered`` and ``broadcast`` are fitted to
published pushes (efficiency.py).
"""

from rlpost.errors import UserError
from rlpost.roofline.efficiency import EFFICIENCY, Efficiency

# Bytes a second, one part after the other: one rank stages on the host, engines receive and load.
_ON_GPU = {
    "shared_memory": (2.5e9, 3.5e9),
    "filesystem": (1.0e9, 1.0e9),
    "gloo": (2.5e9, 0.4e9),
}
_ON_CPU = {
    "shared_memory": (5e9, 1.1e9),
    "filesystem": (1.0e9, 0.8e9),
    "gloo": (2.0e9, 0.4e9),
}
# Out of GPU memory, while engines load: one rank to all, or each to its own. Not measured here.
_BROADCAST, _GATHERED = ("broadcast", "nccl"), ("gathered", "cuda_ipc")


def push_s(
    size_bytes: float, transport: str, *, on_gpu: bool = True, k: Efficiency = EFFICIENCY
) -> float:
    """Return the seconds of a push of ``size_bytes``.

    Args:
        size_bytes: of the weights, or of the adapter.
        transport: one of rlpost's, ``gathered`` (all ranks send, engines load while they receive)
            or ``broadcast`` (one rank sends).
        on_gpu: trainer and engines are.
        k: constants.

    Raises:
        UserError: no rate is known of ``transport``.
    """
    if transport in (*_GATHERED, *_BROADCAST):
        rate: float = k.gathered if transport in _GATHERED else k.broadcast
        return k.push_s + size_bytes / rate
    rates = (_ON_GPU if on_gpu else _ON_CPU).get(transport)
    if rates is None:
        raise UserError(
            f"no rate is known of the transport {transport!r}; those of "
            f"{', '.join([*_ON_GPU, 'gathered', 'broadcast'])} are"
        )
    return k.push_s + sum(size_bytes / rate for rate in rates)
