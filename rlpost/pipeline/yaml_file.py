"""The text of a pipeline's file -> plain mappings and lists.

Owns what is refused whatever the keys mean: a large file, keys written twice, anchors, tags.
Invariant: reading takes time and memory in proportion to the file.
"""

from pathlib import Path
from typing import Any

import yaml

from rlpost.errors import DataError

MAX_BYTES = 2**20  # of a file


def read_tree(path: Path) -> dict[str, Any]:
    """Return what a file holds.

    Raises:
        DataError: it cannot be read, or holds no keys.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: a pipeline has at most {MAX_BYTES} bytes; is this its file?")
        text = path.read_text(encoding="utf-8")
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), path)
        tree = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, DataError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise DataError(f"{path}{line}: cannot be read: {reason:.200}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: must hold the keys of a pipeline, found {type(tree).__name__}")
    return tree


def _refuse_twice(node: Any, path: Path, seen: set[int] | None = None) -> None:
    """Refuse a key that is written twice, and parts that are used twice (anchors)."""
    seen = set() if seen is None else seen
    if isinstance(node, yaml.ScalarNode) or node is None:
        return
    line = f"{path}:{node.start_mark.line + 1}"
    if id(node) in seen:
        raise DataError(f"{line}: anchors and aliases are not supported; write the part out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _refuse_twice(each, path, seen)
        return
    keys: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name in keys:
            raise DataError(f"{line}: {name!a:.60} is written twice; remove one")
        keys.add(name)
        _refuse_twice(value, path, seen)
