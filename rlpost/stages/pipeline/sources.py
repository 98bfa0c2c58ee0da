"""The hashes of the files that a stage of a pipeline reads.

Owns which words of a stage's data and options are files. Invariant: a file that changed is noticed,
because its hash is part of what the stage is made of.
"""

from collections.abc import Iterable
from pathlib import Path

from rlpost.stages.pipeline.lineage import hash_tree


def hash_sources(names: Iterable[str]) -> dict[str, str]:
    """Return name -> hash of everything in ``names`` that exists on this machine as a file.

    A name may be a path, ``file:`` and a path, or a path and ``:function``.
    """
    found: dict[str, str] = {}
    for name in names:
        path = Path(name.removeprefix("file:")).expanduser()
        for each in (path, Path(str(path).rpartition(":")[0])):
            if each != Path(".") and each.exists():
                found[f"file {name}"] = hash_tree(each)
                break
    return found
