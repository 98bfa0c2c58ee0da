"""A stored teacher: the checks of a store, and its making before the student is loaded.

Owns who is asked for what. Refuses to own the format (store.py), the checks of the teacher
(teacher.py) and what is learned. Invariants: a store that is learned from has every row of the run,
made by one teacher of the student's tokenizer at the divergence's temperature; the teacher has the
slots of the student's ranks while it is asked, and is gone before they load.
"""

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.algorithms.distill import DivergenceConfig
from rlpost.checkpoint.space import existing, format_bytes, free_bytes
from rlpost.cluster.ranks import rank_names
from rlpost.cluster.reference import ReferenceGroup, spawn_frozen
from rlpost.cluster.session import Session
from rlpost.data.example import Example
from rlpost.data.splits import Splits
from rlpost.errors import UserError
from rlpost.models.directory.weight_files import stored_tensors
from rlpost.models.fingerprint import fingerprint_of
from rlpost.models.vocabulary import vocabulary_fingerprint
from rlpost.stages.distill.store import Identity, StoredTokens, StoreWriter, TeacherStore, digest_of
from rlpost.stages.distill.teacher import Teacher, num_tokens
from rlpost.stages.distill.teacher_settings import TeacherConfig
from rlpost.stages.learning.parts import in_parts
from rlpost.stages.policy import CheckedPolicy
from rlpost.stages.run import Run
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.packing.pack import Packed
from rlpost.training.settings import TrainerConfig

log = logging.getLogger(__name__)

FIELD = "teacher.store"
VALUES_PER_CALL = 2**22  # kept numbers that travel from the ranks at a time


@dataclass(frozen=True, kw_only=True)
class StoredTeacher:
    """A store that is there, or a teacher that fills it first."""

    directory: Path
    identity: Identity
    vocabulary: int  # tokens that exist
    store: TeacherStore | None  # None: it is made first
    teacher: Teacher | None  # who makes it; None: it is there

    @classmethod
    def of(
        cls,
        cfg: TeacherConfig,
        divergence: DivergenceConfig,
        trainer: TrainerConfig,
        *,
        student: CheckedPolicy,
    ) -> "StoredTeacher":
        """Look at the store, and at the teacher that may have to fill it.

        Raises:
            UserError: the store is another teacher's, tokenizer's or temperature's, something else
                lies there, or the teacher cannot teach.
            DataError: the store is not whole.
        """
        assert cfg.store is not None, "check_distill was not called"
        directory, vocabulary = Path(cfg.store), num_tokens(student)
        store = TeacherStore.open(directory) if directory.exists() else None
        if cfg.top_k is None and store is None:
            raise UserError(
                f"{FIELD}: there is no store in {directory}; make it with teacher.path=MODEL "
                "teacher.top_k=64, or name one that is there"
            )
        if cfg.top_k is not None and cfg.top_k > vocabulary:
            raise UserError(
                f"teacher.top_k must be at most {vocabulary}, the tokens of the vocabulary, got "
                f"{cfg.top_k}; 64 is usual"
            )
        teacher = None
        if cfg.path is not None:
            teacher = Teacher.of(cfg, trainer, student=student)
        wanted = Identity(
            teacher=store.identity.teacher if teacher is None and store else _weights_of(teacher),
            vocabulary=vocabulary_fingerprint(student.tokenizer.get_vocab()),
            top_k=store.identity.top_k if cfg.top_k is None and store else cfg.top_k or 0,
            temperature=divergence.temperature,
        )
        if store is not None:
            _require_same(store, wanted, directory)
        return cls(
            directory=directory,
            identity=wanted,
            vocabulary=vocabulary,
            store=store,
            teacher=teacher if store is None else None,
        )

    def require_rows(self, splits: Splits) -> None:
        """Raises UserError: the store lacks a row, or there is no room for one that is made."""
        if self.store is None:
            assert self.teacher is not None
            self.teacher.require_room(splits)
            tokens = sum(int(each.trained.sum()) for each in _examples(splits))
            self._require_space(tokens * (8 * self.identity.top_k + 4))
            return
        for each in _examples(splits):
            if each not in self.store:
                raise UserError(
                    f"{FIELD}: {self.directory} has nothing of {each.address} as it is rendered "
                    "and marked here, because it was made of other data, or with another "
                    "data.train_on; use its data, or make a store of these rows in another "
                    "directory, with teacher.path=MODEL teacher.top_k=64"
                )

    def _require_space(self, size_bytes: int) -> None:
        place = existing(self.directory)
        if not os.access(place, os.W_OK):
            raise UserError(f"{FIELD}: {place} cannot be written to; name another directory")
        if (free := free_bytes(place)) < size_bytes:
            raise UserError(
                f"{FIELD}: {self.directory} needs {format_bytes(size_bytes)} and has "
                f"{format_bytes(free)}; lower teacher.top_k={self.identity.top_k}, or name a "
                "directory on a larger disk"
            )

    async def opened(self, session: Session, run: Run, *, cfg: Any, splits: Splits) -> TeacherStore:
        """Return the store; make it, if it is not there.

        Raises:
            CancelledError: the person asked to stop, and nothing was stored.
            OSError: it cannot be written.
            UserError: another run has put a store of other rows, or another teacher, there.
        """
        if self.store is not None:
            return self.store
        assert self.teacher is not None
        trainer = cfg.trainer
        group = spawn_frozen(
            session,
            trainer,
            model=self.teacher.model,
            slots=rank_names("trainer", trainer.num_ranks),
            call_timeout_s=cfg.cluster.call_timeout_s,
        )
        try:
            await group.setup()
            alone = replace(trainer, packing=True, sequence_parallel_size=1)  # as scorers are
            packer = ExamplePacker.of(alone, model_path=self.teacher.model.path)
            await self.fill(group, run, packer, splits)
        finally:
            group.end()
        store = TeacherStore.open(self.directory)
        _require_same(store, self.identity, self.directory)  # another run may have been first
        replace(self, store=store).require_rows(splits)
        return store

    async def fill(
        self, group: ReferenceGroup, run: Run, packer: ExamplePacker, splits: Splits
    ) -> None:
        """Ask ``group``, which holds the teacher, of every row, and write the store.

        Raises:
            CancelledError: the person asked to stop, and nothing was stored.
            OSError: it cannot be written.
        """
        assert self.teacher is not None
        identity, done = self.identity, 0
        unique = {digest_of(each): each for each in _examples(splits)}
        with StoreWriter(self.directory, identity=identity, path=self.teacher.model.path) as writer:
            for part in in_parts(
                unique.values(), tokens_per_call=max(1, VALUES_PER_CALL // identity.top_k)
            ):
                if run.stop.is_set():
                    raise asyncio.CancelledError
                packed = packer(part)
                answers = await group.top_tokens(
                    packed,
                    k=identity.top_k,
                    vocabulary=self.vocabulary,
                    temperature=identity.temperature,
                )
                ids, logs = (
                    packed.by_item([[each[which] for each in mine] for mine in answers])
                    for which in (0, 1)
                )
                writer.add(
                    part, [StoredTokens(ids[place], logs[place]) for place in range(len(part))]
                )
                done += len(part)
                run.progress(f"{done} of {len(unique)} examples of the teacher are stored")
            writer.commit()
        log.info("%s: what the teacher says of %d examples is stored", self.directory, done)


@dataclass(frozen=True, kw_only=True)
class TaughtPacker:
    """Packs examples with what a stored teacher says of them; without one, as they are."""

    examples: ExamplePacker
    store: TeacherStore | None

    def __call__(self, examples: Sequence[Example]) -> Packed:
        """See ``ExamplePacker``."""
        packed = self.examples(examples)
        return packed if self.store is None else packed.attach(**self.store.columns(examples))


def _examples(splits: Splits) -> Iterator[Example]:
    """Return the examples of all rows, to learn and held out."""
    for corpus in (*splits.train.corpora.values(), *splits.heldout.values()):
        for row in range(len(corpus)):
            yield from corpus.examples(row)


def _weights_of(teacher: Teacher | None) -> str:
    assert teacher is not None, "check_distill was not called"
    return fingerprint_of(stored_tensors(Path(teacher.model.path), field="teacher.path"))


def _require_same(store: TeacherStore, wanted: Identity, directory: Path) -> None:
    found = store.identity
    if found.vocabulary != wanted.vocabulary:
        raise UserError(
            f"{FIELD}: {directory} was made with another tokenizer than the student's, of "
            f"{store.path}; use a student of that family, or make another store"
        )
    if found.temperature != wanted.temperature:
        raise UserError(
            f"distill.temperature={wanted.temperature:g} must be the one that {directory} was made "
            f"with, {found.temperature:g}, because the rest of a distribution cannot be warmed "
            "afterwards; set it, or make another store"
        )
    if found != wanted:
        raise UserError(
            f"{FIELD}: {directory} holds the {found.top_k} most likely tokens of {store.path}, and "
            f"teacher.path with teacher.top_k={wanted.top_k} asks for others; leave both out to "
            "learn from what is there, or name another directory"
        )
