"""Rows from a dataset of the Hugging Face hub.

Owns the name ``owner/name[:config][@split]`` and the translation of loading failures.
Refuses to own caching and authentication (``datasets`` and ``HF_TOKEN`` do).
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from rlpost.data.boundary import attempt, refusal
from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.data.sources.columnar import without_missing
from rlpost.errors import UserError

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>.+))?")
_DEFAULT_SPLITS = {Split.TRAIN: "train", Split.HELDOUT: "test"}


def read_hub(request: SourceRequest) -> RowStream:
    """Yield the rows of a hub dataset; size and seed do not matter.

    Without ``@split`` the split is ``train`` for training and ``test`` for held-out;
    ``@train[:1000]`` and the like are understood by ``datasets``.

    Raises:
        UserError: the name is not a hub id.
        DataError: the dataset cannot be loaded.
    """
    match = NAME.fullmatch(request.locator)
    if match is None:
        raise UserError(
            f"{request.field}: {request.locator!r} is not a hub id; write "
            "owner/name, owner/name:config or owner/name:config@split"
        )
    import datasets

    split = match["split"] or _DEFAULT_SPLITS[request.split]
    with refusal(
        request.field,
        f"the dataset {request.locator!r} (split {split!r}) cannot be loaded",
        way_out="check the name, the network and HF_TOKEN, or give a local file",
    ):
        table = datasets.load_dataset(match["repo"], match["config"], split=split)
    return _rows(table, request.name)


def _rows(table: Any, name: str) -> RowStream:
    for index in range(len(table)):
        address = f"{name}[{index}]"
        columns = attempt(
            partial(table.__getitem__, index),
            address=address,
            problem="cannot be decoded",
            way_out="leave the column out, or write the rows to a JSONL file and give that",
        )
        if isinstance(columns, Mapping):
            yield Row(columns=without_missing(columns), address=address)
        else:
            yield columns
