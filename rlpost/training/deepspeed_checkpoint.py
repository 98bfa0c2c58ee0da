"""Resumable trainer state on disk, in DeepSpeed's own format.

Owns the files of one trainer group inside a directory that the checkpoint room makes
appear atomically. Invariant: a continuation after load is bit-equal to one without. The
format is tied to the number of ranks, the ZeRO stage and the dtype; another combination is
refused here, because DeepSpeed's own refusal does not say so.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpost.errors import DataError, UserError

_TAG = "engine"
_META = "trainer.json"


def save_state(
    engine: Any, directory: Path, *, rank: int, shape: dict[str, Any], progress: dict[str, Any]
) -> None:
    """Write the engine, each rank's random state and ``progress``; collective.

    Args:
        engine: the DeepSpeed engine.
        directory: exists or is created.
        rank: this rank.
        shape: what a loader must match, by option name.
        progress: anything JSON can hold; ``load_state`` returns it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # save_latest would add a pointer file: which checkpoint is the latest is not ours to say.
    engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)
    torch.save(_random_state(), directory / f"random_{rank}.pt")
    if rank == 0:
        (directory / _META).write_text(json.dumps({"shape": shape, "progress": progress}))


def load_state(engine: Any, directory: Path, *, rank: int, shape: dict[str, Any]) -> dict[str, Any]:
    """Restore what ``save_state`` wrote and return its ``progress``; collective.

    Raises:
        DataError: files are missing.
        UserError: the checkpoint is of another shape.
    """
    meta_path = directory / _META
    if not meta_path.is_file():
        raise DataError(f"{meta_path}: missing, so this is not a complete trainer checkpoint")
    meta = json.loads(meta_path.read_text())
    for name, saved in meta["shape"].items():
        if saved != shape[name]:
            raise UserError(
                f"{name} must be {saved} to resume from {directory}, got {shape[name]}; change "
                "it back, or start a new run from an exported model (model.path=.../export)"
            )
    loaded, _ = engine.load_checkpoint(str(directory), tag=_TAG)
    if loaded is None:
        raise DataError(f"{directory / _TAG}: the engine's files are missing or incomplete")
    # Our own file of a moment ago; numpy's state is not a tensor.
    _restore_random(torch.load(directory / f"random_{rank}.pt", weights_only=False))
    return meta["progress"]


def _random_state() -> dict[str, Any]:
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
