"""Rows from the procedural tasks of the package ``reasoning-gym``.

Owns the choice of entries. Refuses to own scoring: the column ``metadata`` has the whole entry
as JSON, so that a verifier can call the task's own scorer. Invariant: train and held-out share
no question, whatever the seeds and sizes, because the hash of a question decides its split.
Held-out entries come from one fixed seed, so that scores of runs with different seeds are
comparable.
"""

import difflib
import hashlib
import json
from typing import Any

from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.errors import UserError

_HELDOUT_SEED = 20_011
_HELDOUT_ONE_IN = 5
# Bounds the search, because a task with very few questions may have none in one split.
_MAX_DRAWS_PER_ROW = 20


def read_reasoning_gym(request: SourceRequest) -> RowStream:
    """Yield ``request.size`` entries of the task ``request.locator``.

    Columns: ``prompt``, ``answer`` (None for tasks that only have a scorer) and
    ``metadata`` (JSON of the entry). The train split draws from ``request.seed``.

    Raises:
        UserError: the package or the task does not exist, the task needs settings of its
            own, or it has too few distinct questions for this split.
    """
    seed = _HELDOUT_SEED if request.split is Split.HELDOUT else request.seed
    draws = request.size * _MAX_DRAWS_PER_ROW
    task = _create(request, size=draws, seed=seed)
    found = 0
    for index in range(draws):
        entry = task[index]
        if _side(entry["question"]) is not request.split:
            continue
        yield Row(
            columns={
                "prompt": entry["question"],
                "answer": entry["answer"],
                "metadata": json.dumps(entry, default=str),
            },
            address=f"{request.name}[{index}]",
        )
        found += 1
        if found == request.size:
            return
    raise UserError(
        f"{request.field}: {request.name} gave {found} of {request.size} rows for the split "
        f"{request.split.value!r} in {draws} draws, because it has too few distinct questions; "
        "choose another task or set data.heldout to a file"
    )


def _side(question: str) -> Split:
    digest = hashlib.sha256(question.encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") % _HELDOUT_ONE_IN == 0
    return Split.HELDOUT if held_out else Split.TRAIN


def _create(request: SourceRequest, *, size: int, seed: int) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            f"{request.field}: {request.name} needs the package reasoning-gym, which cannot be "
            f"imported ({error}); run `pip install reasoning-gym`"
        ) from error
    task = request.locator
    if task not in DATASETS:
        close = difflib.get_close_matches(task, DATASETS, n=3)
        hint = (
            f"did you mean {', '.join(close)}?"
            if close
            else f"for example {', '.join(sorted(DATASETS)[:5])}"
        )
        raise UserError(f"{request.field}: reasoning_gym has no task {task!r}; {hint}")
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(
            f"{request.field}: the reasoning_gym task {task!r} has no usable default settings "
            f"({error}); write its entries to a JSONL file and give that"
        ) from error
