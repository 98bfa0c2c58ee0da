"""The random generators of one process, as plain data.

Owns what Python, NumPy and torch need to continue drawing the same numbers. Refuses to own the
file that holds it. Invariant: the state is JSON, so reading it from a stranger's checkpoint
executes nothing.
"""

import base64
import binascii
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """Return the state of all generators as JSON-able data.

    Example: ``{"python": [3, [1, 2, ...], None], "numpy": ["MT19937", [...], 624, 0, 0.0],
    "torch": "<base64>"}``
    """
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        state["cuda"] = _text(torch.cuda.get_rng_state())
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Continue from what ``random_state`` returned, before or after its way through JSON.

    Raises:
        ValueError: it is not such a state.
    """
    try:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(_tensor(state["torch"]))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(_tensor(state["cuda"]))
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"not the state of random generators ({error})") from error


def seed_everything(*keys: int) -> None:
    """Seed Python, NumPy and torch by a hash of ``keys``."""
    seed = int(np.random.SeedSequence(keys).generate_state(1)[0])
    for seed_it in (random.seed, np.random.seed, torch.manual_seed):
        seed_it(seed)


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> Tensor:
    try:
        return torch.frombuffer(bytearray(base64.b64decode(text, validate=True)), dtype=torch.uint8)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
