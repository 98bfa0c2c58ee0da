"""Two buckets that others read: nobody overwrites, and who dies is noticed at once."""

import multiprocessing
import threading
import time

import pytest

from rlpost.errors import PushEnded, WeightPushError
from rlpost.weights.deadline import Deadline
from rlpost.weights.transports.host_pages import HostPages
from rlpost.weights.transports.ring import RingReader, RingWriter, remove_unused, ring_path

SLOT = 128


@pytest.fixture
def ends(tmp_path):
    path = ring_path("r", sends=True, directory=tmp_path)
    writer, reader = make_writer(path), make_reader(path)
    yield writer, reader
    reader.close()
    writer.close()


def begin(writer: RingWriter, push: int = 1, *, readers: int = 1):
    return writer.begin(push, num_readers=readers, slot_bytes=SLOT)


def make_writer(path) -> RingWriter:
    return RingWriter(path, pages=HostPages())


def make_reader(path, *, reader: int = 0, timeout_s: float = 20.0) -> RingReader:
    return RingReader(path, reader=reader, deadline=Deadline(timeout_s), pages=HostPages())


def taken(writer: RingWriter, number: int, *, timeout_s: float = 20.0) -> None:
    writer.await_taken(number, deadline=Deadline(timeout_s))


def test_a_slot_is_given_back_by_every_reader_before_it_is_filled_again(ends, tmp_path):
    writer, reader = ends
    other = make_reader(ring_path("r", sends=True, directory=tmp_path), reader=1)
    slots = begin(writer, readers=2)
    views = reader.begin(1, slot_bytes=SLOT), other.begin(1, slot_bytes=SLOT)
    slots[1][:] = 9
    writer.fill(0)
    writer.fill(1)
    for view, end in zip(views, (reader, other), strict=True):
        end.await_bucket(1)
        assert view[1][SLOT - 1] == 9
    reader.take(0)
    waiting = threading.Thread(target=taken, args=(writer, 0))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    other.take(0)
    waiting.join(5)
    assert not waiting.is_alive()
    other.close()


def test_a_reader_that_has_all_it_needs_may_leave_before_the_others(ends, tmp_path):
    writer, reader = ends
    other = make_reader(ring_path("r", sends=True, directory=tmp_path), reader=1)
    begin(writer, readers=2)
    for end in (reader, other):
        end.begin(1, slot_bytes=SLOT)
    writer.fill(0)
    reader.take(0)
    reader.close()
    threading.Timer(0.4, other.take, (0,)).start()  # longer than it takes to look who lives
    taken(writer, 0)
    other.close()
    with pytest.raises(WeightPushError, match=r"worker 0 of the 2 that read on this host is gone"):
        taken(writer, 1)


def test_a_reader_waits_for_its_own_push(ends):
    writer, reader = ends
    begin(writer, 1)
    started = threading.Thread(target=reader.begin, args=(2,), kwargs={"slot_bytes": SLOT})
    started.start()
    time.sleep(0.1)
    assert started.is_alive()
    begin(writer, 2)
    started.join(5)
    assert not started.is_alive()


def test_a_failure_is_told_in_its_own_words(ends):
    writer, reader = ends
    begin(writer)
    reader.begin(1, slot_bytes=SLOT)
    writer.fail("müde")
    with pytest.raises(PushEnded, match=r"the push was ended elsewhere: müde$"):
        reader.await_bucket(0)
    begin(writer, 2)
    reader.begin(2, slot_bytes=SLOT)
    writer.fill(0)
    reader.await_bucket(0)  # nothing of it is left


def test_silence_has_a_deadline(ends, tmp_path):
    writer, reader = ends
    begin(writer, readers=2)
    writer.fill(0)
    reader.begin(1, slot_bytes=SLOT)
    reader.take(0)
    late = r"did not end in 0\.1 s, and waited for worker 1 of the 2 that read on this host to take"
    with pytest.raises(WeightPushError, match=late):
        taken(writer, 0, timeout_s=0.1)
    hasty = make_reader(ring_path("r", sends=True, directory=tmp_path), reader=1, timeout_s=0.1)
    hasty.begin(1, slot_bytes=SLOT)
    with pytest.raises(WeightPushError, match=r"did not end in 0\.1 s, and waited for bucket 1"):
        hasty.await_bucket(1)
    hasty.close()


def _read_until_killed(path, begun):
    make_reader(path).begin(1, slot_bytes=SLOT)
    begun.set()
    time.sleep(60)


def _write_until_killed(path, begun):
    begin(make_writer(path))
    begun.set()
    time.sleep(60)


@pytest.mark.parametrize("dies", [_read_until_killed, _write_until_killed])
def test_a_process_that_is_killed_is_noticed_long_before_the_deadline(ends, tmp_path, dies):
    writer, reader = ends
    path = ring_path("r", sends=True, directory=tmp_path)
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    if dies is _read_until_killed:
        begin(writer)
    process = context.Process(target=dies, args=(path, begun))
    process.start()
    assert begun.wait(60)
    if dies is _write_until_killed:
        reader.begin(1, slot_bytes=SLOT)
    threading.Timer(0.2, process.kill).start()
    with pytest.raises(WeightPushError, match=r"is gone|died"):  # not: waited 20 s
        if dies is _read_until_killed:
            taken(writer, 0)
        else:
            reader.await_bucket(0)
    process.join()


def test_without_readers_there_is_no_file(tmp_path):
    writer = make_writer(ring_path("r", sends=False, directory=tmp_path))
    assert begin(writer, readers=0) == [] and not list(tmp_path.iterdir())
    writer.fill(0)
    taken(writer, 0)
    writer.close()


def test_a_file_is_removed_once_nobody_has_it_open(tmp_path):
    path = ring_path("r", sends=False, directory=tmp_path)
    writer, reader = make_writer(path), make_reader(path)
    begin(writer)[0][:] = 7
    view = reader.begin(1, slot_bytes=SLOT)[0]
    writer._file.close()  # as when its process is killed
    remove_unused(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    reader.close()
    remove_unused(tmp_path)
    assert list(tmp_path.iterdir()) == [] and view[0] == 7
    begin(make_writer(path))  # anew
    assert list(tmp_path.iterdir()) == [path]
