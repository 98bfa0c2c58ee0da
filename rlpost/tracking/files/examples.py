"""``examples.jsonl``: training examples with their masks, for people to look at.

Owns the file. Refuses to own which examples are shown and how text is split (the stage). Invariant:
a file is complete or absent.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.errors import DataError
from rlpost.tracking.boundary import own_record


def write_examples(path: Path, examples: Sequence[Mapping[str, Any]]) -> None:
    """Write examples, one a line, in place of what was there.

    Example: the line ``{"source": "chat", "address": "train.jsonl:17", "num_tokens": 9,
    "num_trained": 2, "runs": [["<|user|>2 + 2?<|assistant|>", false], ["4<|end|>", true]]}``,
    where ``runs`` are stretches of text and whether they are trained. An example that is judged has
    ``"judgement"``, such as ``"chosen, margin 0.5"`` or ``"bad"``.

    Raises:
        RunFailed: the write fails.
    """
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in examples)
    with own_record(path):
        write_text(path, lines.encode("utf-8", "replace").decode())


def read_examples(path: Path) -> list[dict[str, Any]]:
    """Return the examples in a file, each checked; empty: there is no file.

    Raises:
        DataError: a line is no example; the message has its number.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    return [_example(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _example(line: bytes, address: str) -> dict[str, Any]:
    try:
        plain = json.loads(line)
        return {
            "source": str(plain.get("source", "")),
            "address": str(plain["address"]),
            "judgement": str(plain.get("judgement", "")),
            "num_tokens": int(plain["num_tokens"]),
            "num_trained": int(plain["num_trained"]),
            "runs": [[str(text), bool(trained)] for text, trained in plain["runs"]],
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{address}: not a training example ({error!r})") from error
