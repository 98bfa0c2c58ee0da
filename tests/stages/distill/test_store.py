"""A store of a teacher's words: what is written is read, and nothing else is."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from rlpost.data.example import Example
from rlpost.errors import DataError
from rlpost.stages.distill.store import Identity, StoredTokens, StoreWriter, TeacherStore

IDENTITY = Identity(teacher="t", vocabulary="v", top_k=2, temperature=1.0)


def example(*ids, trained_from=1):
    trained = np.arange(len(ids)) >= trained_from
    return Example(ids=np.array(ids, np.int32), trained=trained, address=f"rows:{ids}")


def kept(num, first):
    ids_RK = np.arange(first, first + 2 * num, dtype=np.int32).reshape(num, 2)
    return StoredTokens(ids_RK, -np.ones((num, 3), np.float32) * first)


EXAMPLES = [example(1, 2, 3), example(1, 2, 4, trained_from=2), example(5, 6)]
KEPT = [kept(2, 10), kept(1, 20), kept(1, 30)]


@pytest.fixture
def stored(tmp_path):
    place = tmp_path / "stored"
    with StoreWriter(place, identity=IDENTITY, path="teacher") as writer:
        writer.add(EXAMPLES[:2], KEPT[:2])
        writer.add(EXAMPLES[2:], KEPT[2:])
        assert not place.exists()
        writer.commit()
    return place


def test_each_example_is_found_whatever_the_order(stored):
    store = TeacherStore.open(stored)
    assert (store.identity, store.path, len(store)) == (IDENTITY, "teacher", 3)
    columns = store.columns(EXAMPLES[::-1])
    for place, (ids_RK, logs_RB) in enumerate(KEPT[::-1]):
        np.testing.assert_array_equal(columns["teacher_ids_RK"][place], ids_RK)
        np.testing.assert_array_equal(columns["teacher_logs_RB"][place], logs_RB)


def test_other_tokens_or_another_mask_are_not_there(stored):
    store = TeacherStore.open(stored)
    assert all(each in store for each in EXAMPLES)
    assert example(1, 2, 5) not in store and example(1, 2, 3, trained_from=2) not in store


def test_a_killed_writer_leaves_nothing_that_looks_whole_and_nothing_in_the_way(tmp_path):
    place = tmp_path / "stored"
    writer = StoreWriter(place, identity=IDENTITY, path="teacher").__enter__()
    writer.add(EXAMPLES, KEPT)
    del writer  # as a kill does, this releases the lock and removes nothing
    assert not place.exists()
    (left,) = tmp_path.iterdir()
    with pytest.raises(DataError):
        TeacherStore.open(left)
    (tmp_path / ".stored.one.writing").mkdir()  # of a writer that had not locked it yet
    with StoreWriter(place, identity=IDENTITY, path="teacher") as again:
        again.add(EXAMPLES[:1], KEPT[:1])
        again.commit()
    assert len(TeacherStore.open(place)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["stored"]


def test_two_runs_fill_one_store_at_the_same_time(tmp_path):
    place = tmp_path / "stored"
    with (
        StoreWriter(place, identity=IDENTITY, path="first") as first,
        StoreWriter(place, identity=IDENTITY, path="second") as second,
    ):
        second.add(EXAMPLES[2:], KEPT[2:])
        first.add(EXAMPLES[:1], KEPT[:1])
        first.add(EXAMPLES[1:], KEPT[1:])
        first.commit()
        second.commit()
    store = TeacherStore.open(place)
    assert (store.path, len(store)) == ("first", 3)
    np.testing.assert_array_equal(store.of(EXAMPLES[2]).ids_RK, KEPT[2].ids_RK)
    assert [each.name for each in tmp_path.iterdir()] == ["stored"]
    names = {each.name for each in place.iterdir()}
    assert names == {"TEACHER.json", "part_00000.safetensors", "part_00001.safetensors"}


def cut(place):
    part = place / "part_00001.safetensors"
    part.write_bytes(part.read_bytes()[:-4])


def altered(place):
    part = place / "part_00001.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)


def without_a_part(place):
    (place / "part_00000.safetensors").unlink()


def of_another_format(place):
    manifest = json.loads((place / "TEACHER.json").read_text())
    (place / "TEACHER.json").write_text(json.dumps({**manifest, "format": 99}))


def with_other_words(place):
    manifest = json.loads((place / "TEACHER.json").read_text())
    manifest["manifest"]["identity"]["top_k"] = 3
    (place / "TEACHER.json").write_text(json.dumps(manifest))


def foreign(place):
    shutil.rmtree(place)
    place.mkdir()
    save_file({"x": np.zeros(3)}, place / "model.safetensors")


def no_json(place):
    (place / "TEACHER.json").write_text("[" * 10_000)


@pytest.mark.parametrize(
    "harm",
    [cut, altered, without_a_part, of_another_format, with_other_words, foreign, no_json],
    ids=lambda harm: harm.__name__,
)
def test_what_is_not_whole_is_refused(stored, harm):
    harm(stored)
    with pytest.raises(DataError, match=str(stored)):
        TeacherStore.open(stored)
