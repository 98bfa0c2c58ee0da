"""Which files of a directory are data, and of which split.

Owns the reading of names: a directory of files, a snapshot of a hub repository, or one that
``datasets`` saved. Refuses to open files. Invariant: all files that are chosen are of one kind and
of one split; a file that is neither data nor documentation is refused, not left out.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rlpost.data.rows import Split
from rlpost.errors import DataError, UserError

_DOCUMENTATION = re.compile(
    r"(README|LICENSE|LICENCE|NOTICE|CITATION)(\..*)?|.*\.md|dataset_infos?\.json"
)
_TRAIN = "train"
_HELDOUT_NAMES = ("test", "validation", "valid", "val", "dev", "eval")  # the first there is
_WORD = re.compile(r"[^A-Za-z]")


def saved_dataset(path: Path, *, split: Split, field: str) -> Path | None:
    """Return the directory of a dataset that ``save_to_disk`` wrote; None for other directories.

    Raises:
        UserError: there are several splits, none of which is the one that is wanted.
    """
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return path
    if not (path / "dataset_dict.json").is_file():
        return None
    names = sorted(each.name for each in path.iterdir() if (each / "state.json").is_file())
    return path / _chosen(names, path=path, split=split, field=field)


def data_files(path: Path, *, suffixes: tuple[str, ...], split: Split, field: str) -> list[Path]:
    """Return the files of a directory and those below it, in the order of their names.

    Files or folders called ``train``, ``test``, ``validation`` and the like (or beginning so,
    ``train-00000-of-00002``) are of that split, and only those of the wanted one are returned.
    Hidden files and documentation do not count.

    Raises:
        UserError: there is no file of data, or none of this split.
        DataError: a file is of another kind than the others.
    """
    found = _listed(path)
    for each in found:
        if not each.name.endswith(suffixes):
            raise DataError(
                f"{each}: a directory of data holds only files that end in {', '.join(suffixes)}; "
                "remove the file, convert it, or name the files of data one by one"
            )
    if not found:
        raise UserError(
            f"{field}: the directory {str(path)!r} has no file that ends in "
            f"{', '.join(suffixes)}; give another directory"
        )
    for each in found:
        if _kind(each) != _kind(found[0]):
            raise DataError(
                f"{each}: the file is of another kind than {found[0]}; a directory holds one kind: "
                "move the others, or give them as sources of their own"
            )
    return _of_split(found, path=path, split=split, field=field)


def _listed(path: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and not _DOCUMENTATION.fullmatch(name)
        ]
    return sorted(found)


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix("l").rpartition(".")[2]


def _of_split(files: Sequence[Path], *, path: Path, split: Split, field: str) -> list[Path]:
    names = {each: _split_name(each.relative_to(path)) for each in files}
    different = sorted({name for name in names.values() if name})
    if not different:
        return list(files)
    for each, name in names.items():
        if name is None:
            raise DataError(
                f"{each}: other files here are named for a split ({', '.join(different)}), this "
                "one is not; rename it, or give the files one by one"
            )
    chosen = _chosen(different, path=path, split=split, field=field)
    return [each for each, name in names.items() if name == chosen]


def _chosen(names: Sequence[str], *, path: Path, split: Split, field: str) -> str:
    """Return the only split there is, or the one that is wanted."""
    wanted = (_TRAIN,) if split is Split.TRAIN else _HELDOUT_NAMES
    for name in names if len(names) == 1 else wanted:
        if name in names:
            return name
    raise UserError(
        f"{field}: the directory {str(path)!r} has the splits {', '.join(names) or 'none'}, none "
        f"of which is {wanted[0]!r}; give the directory or the files of one"
    )


def _split_name(relative: Path) -> str | None:
    """Return the split that the name of a file or of a folder above it begins with."""
    for part in reversed(relative.parts):
        word = _WORD.split(part)[0].lower()
        if word in (_TRAIN, *_HELDOUT_NAMES):
            return word
    return None
