"""What a reference model says of completions: asked in each step, or once before the first.

Owns where log-probs come from and the file that keeps them. Refuses to own the model
(cluster/reference.py) and what is made of its answers. Invariants: precomputed log-probs are those
of the weights that training starts from, or of the frozen model that the options name; a file of
other rows or another reference is never read; an interrupted write leaves none.

A completion is found by its row's table and number, and its place in the row: the uid of what a
mixture drew names all but the place.

Legend: R trained tokens; E completions in a file, T all their trained tokens.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from rlpost.checkpoint.state import fsync_path
from rlpost.data.example import Example
from rlpost.errors import UserError
from rlpost.stages.learning.parts import TOKENS_PER_CALL, in_parts
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.training.packing.pack import Packed
from rlpost.umask import follow_umask

log = logging.getLogger(__name__)

ByPlace = dict[int, np.ndarray]  # place in a list of examples -> log-probs of its trained tokens
Key = tuple[str, int, int]  # table, row, place in the row
Score = Callable[[Packed], Awaitable[Sequence[Sequence[np.ndarray]]]]


class Reference(Protocol):
    """Says what the reference finds of completions."""

    async def logprobs(self, packed: Packed, examples: Sequence[Example]) -> ByPlace:
        """Return log-probs (nats, float32) of the trained tokens of each example.

        Args:
            packed: the examples, packed.
            examples: in the order of their numbers, each with the uid that a mixture gave it.
        """


@dataclass(frozen=True, kw_only=True)
class LiveReference:
    """A model that is asked in each step."""

    score: Score

    async def logprobs(self, packed: Packed, examples: Sequence[Example]) -> ByPlace:
        """Score ``packed`` as it is."""
        return packed.by_item(await self.score(packed))


def keys_of(examples: Sequence[Example]) -> list[Key]:
    """Return the key of each example; those of one row follow each other.

    Example: the uid ``chat:2:17`` of two examples is ``("chat", 17, 0)`` and ``("chat", 17, 1)``.
    """
    seen: Counter[str] = Counter()
    keys, before = [], None
    for each in examples:
        if each.uid != before:
            seen[each.uid] = 0
        table, _, row = each.uid.rsplit(":", 2)
        keys.append((table, int(row), seen[each.uid]))
        seen[each.uid] += 1
        before = each.uid
    return keys


@dataclass(kw_only=True)
class PrecomputedReference:
    """Log-probs that were computed before the first step.

    Example::

        reference = PrecomputedReference(path=run.directory.reference, identity={...})
        await reference.complete(rows, score=policy.score, packer=packer, progress=run.progress)
    """

    path: Path
    identity: Mapping[str, Any]  # of rows and reference; a file of another one is not read
    continues: bool = False  # the run goes on from a checkpoint
    tokens_per_call: int = TOKENS_PER_CALL
    _found: dict[Key, np.ndarray] = field(default_factory=dict)

    async def logprobs(self, packed: Packed, examples: Sequence[Example]) -> ByPlace:
        """Look the examples up; a row that was not computed is a mistake of this program."""
        return {place: self._found[key] for place, key in enumerate(keys_of(examples))}

    async def complete(
        self,
        rows: Iterable[Sequence[Example]],
        *,
        score: Score,
        packer: ResponsePacker,
        progress: Callable[[str], None],
    ) -> None:
        """Compute what the file lacks of ``rows``, and write the file, also on the way.

        Args:
            rows: the examples of each row that will be needed, with uids.
            score: of the reference.
            packer: packs the rows.
            progress: is told what was done.

        Raises:
            OSError: the file cannot be written.
            UserError: the run goes on, and its reference has other weights than at its start.
        """
        self._found = self._read()
        done = written = 0
        for part in self._parts(rows):
            examples = [each for row in part for each in row]
            packed = packer.to_score(examples)
            answers = packed.by_item(await score(packed))
            for place, key in enumerate(keys_of(examples)):
                self._found[key] = answers[place]
            done += len(part)
            progress(f"reference log-probs of {done} rows")
            # A kill loses at most half of the work, and the writes together are two files long.
            if done >= 2 * written:
                self._write()
                written = done
        if done > written:
            self._write()
        if done:
            log.info("the reference's log-probs of %d rows were computed", done)

    def _parts(self, rows: Iterable[Sequence[Example]]) -> Iterator[list[Sequence[Example]]]:
        missing = (row for row in rows if keys_of(row)[0] not in self._found)
        return row_parts(missing, tokens_per_call=self.tokens_per_call)

    def _read(self) -> dict[Key, np.ndarray]:
        try:
            with np.load(self.path) as stored:
                kept = json.loads(str(stored["identity"]))
                if kept != json.loads(json.dumps(self.identity)):
                    self._require_same_weights(kept)
                    return {}
                tables = json.loads(str(stored["tables"]))
                ends = np.cumsum(stored["count_E"])[:-1]
                return {
                    (tables[table], int(row), int(place)): values
                    for table, row, place, values in zip(
                        stored["table_E"],
                        stored["row_E"],
                        stored["place_E"],
                        np.split(stored["logprobs_T"], ends),
                        strict=True,
                    )
                }
        except FileNotFoundError:
            return {}
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            log.warning("%s cannot be read (%s); it is computed again", self.path, error)
            return {}

    def _require_same_weights(self, kept: Mapping[str, Any]) -> None:
        """Raises UserError: a run goes on with a reference of other weights than at its start."""
        weights = kept.get("weights")  # None: an earlier version wrote the file
        if self.continues and weights not in (None, self.identity.get("weights")):
            raise UserError(
                f"{self.path} holds log-probs of other weights than those of the reference now, so "
                "the run would go on against another reference than it began with: restore the "
                "files in model.path, model.adapter or reference.path, or choose another run.name"
            )

    def _write(self) -> None:
        keys = list(self._found)
        tables = sorted({table for table, _, _ in keys})
        scratch = self.path.with_name(f".{self.path.name}.writing")
        with scratch.open("wb") as file:
            np.savez(
                file,
                identity=json.dumps(self.identity),
                tables=json.dumps(tables),
                table_E=np.array([tables.index(table) for table, _, _ in keys], np.int32),
                row_E=np.array([row for _, row, _ in keys], np.int64),
                place_E=np.array([place for _, _, place in keys], np.int32),
                count_E=np.array([len(self._found[key]) for key in keys], np.int64),
                logprobs_T=np.concatenate([self._found[key] for key in keys]),
            )
            file.flush()
            os.fsync(file.fileno())
        follow_umask(scratch)
        os.replace(scratch, self.path)
        fsync_path(self.path.parent)


def row_parts(
    rows: Iterable[Sequence[Example]], *, tokens_per_call: int = TOKENS_PER_CALL
) -> Iterator[list[Sequence[Example]]]:
    """Yield rows in lists of about so many tokens, with one row at least in each."""
    return in_parts(rows, tokens_of=lambda row: sum(map(len, row)), tokens_per_call=tokens_per_call)
