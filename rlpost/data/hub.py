"""Rows from a dataset of the Hugging Face hub.

Owns the name ``owner/name[:config][@split]`` and the translation of loading failures.
Refuses to own caching and authentication (``datasets`` and ``HF_TOKEN`` do).
"""

import re
from collections.abc import Iterable
from typing import Any

from rlpost.data.rows import Row, RowStream, SourceRequest, Split
from rlpost.errors import UserError

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>.+))?")
_DEFAULT_SPLITS = {Split.TRAIN: "train", Split.HELDOUT: "test"}


def read_hub(request: SourceRequest) -> RowStream:
    """Yield the rows of a hub dataset; size and seed do not matter.

    Without ``@split`` the split is ``train`` for training and ``test`` for held-out;
    ``@train[:1000]`` and the like are understood by ``datasets``.

    Raises:
        UserError: the name is not a hub id or the dataset cannot be loaded.
    """
    match = NAME.fullmatch(request.locator)
    if match is None:
        raise UserError(
            f"{request.field}: {request.locator!r} is not a hub id; write "
            "owner/name, owner/name:config or owner/name:config@split"
        )
    import datasets

    split = match["split"] or _DEFAULT_SPLITS[request.split]
    try:
        table = datasets.load_dataset(match["repo"], match["config"], split=split)
    # datasets raises ValueError for an unknown config or split, OSError (or a subclass:
    # file-not-found, connection, hub) for the rest, DatasetsError while it builds.
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{request.field}: the dataset {request.locator!r} (split {split!r}) cannot be "
            f"loaded: {type(error).__name__}: {error}; check the name, the network and "
            "HF_TOKEN, or give a local file"
        ) from error
    return _rows(table, request.name)


def _rows(table: Iterable[dict[str, Any]], name: str) -> RowStream:
    for index, columns in enumerate(table):
        yield Row(columns=columns, address=f"{name}[{index}]")
