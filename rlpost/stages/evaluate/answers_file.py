"""``evaluation.jsonl``: every judged answer of an evaluation, so that it can go on after a kill.

Owns the file. Refuses to own what a row holds (evaluation/answer.py). Invariants: the rows of an
item are written in one call, after all of them were judged; an item of which rows are missing, as
after a kill in the middle of a write, counts as not answered and its rows are dropped; when an
evaluation is complete the rows are in the order of the data, so that equal evaluations have equal
files.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlpost.checkpoint.state import write_text
from rlpost.errors import DataError
from rlpost.evaluation.answer import Answer
from rlpost.tracking.boundary import own_record

log = logging.getLogger(__name__)

ItemKey = tuple[str, str, str]  # model, dataset, uid


class AnswersFile:
    """Example::

    file = AnswersFile(root / "evaluation.jsonl", samples=4)
    if ("model", "reasoning", "0:17") not in file.items:
        file.add(answers)
    """

    def __init__(self, path: Path, *, samples: int) -> None:
        """Read what is there; write nothing.

        Raises:
            DataError: a row cannot be read; an incomplete last line is no error.
        """
        self.path = path
        self.items: dict[ItemKey, tuple[Answer, ...]] = {}
        rows, torn = _read(path)
        for row in rows:
            key = (row.model, row.dataset, row.uid)
            self.items[key] = (*self.items.get(key, ()), row)
        for key, answers in list(self.items.items()):
            if [each.sample for each in answers] != list(range(samples)):
                del self.items[key]
                torn = True
        self._torn = torn

    def repair(self) -> None:
        """Remove what a killed writer left half done."""
        if self._torn:
            log.warning("%s: removed the rows of an item that were not complete", self.path)
            self._rewrite(self.items)
            self._torn = False

    def add(self, answers: Sequence[Answer]) -> None:
        """Append the answers to one item.

        Raises:
            RunFailed: the write fails; the rows before are complete.
        """
        key = (answers[0].model, answers[0].dataset, answers[0].uid)
        assert key not in self.items, key
        self._append("".join(f"{each.to_json()}\n" for each in answers))
        self.items[key] = tuple(answers)

    def put_in_order(self, order: Iterable[ItemKey]) -> None:
        """Rewrite the file in this order of items; those that are not there are left out."""
        self._rewrite([key for key in order if key in self.items])

    def _append(self, text: str) -> None:
        assert not self._torn, "repair comes first"
        with own_record(self.path), self.path.open("ab", buffering=0) as file:
            end = file.tell()
            data = text.encode("utf-8", "replace")
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise

    def _rewrite(self, keys: Iterable[ItemKey]) -> None:
        lines = [f"{each.to_json()}\n" for key in keys for each in self.items[key]]
        with own_record(self.path):
            write_text(self.path, "".join(lines))


def _read(path: Path) -> tuple[list[Answer], bool]:
    """Return the complete rows, and whether an incomplete one follows."""
    if not path.exists():
        return [], False
    *lines, rest = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Answer.from_json(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: not an answer of an evaluation ({error}); remove the line, and "
                "its item is answered again"
            ) from error
    return rows, bool(rest)
