"""Checkpoints appear whole or not at all, whatever dies, fills up or rots."""

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlpost.bounds import check_config
from rlpost.checkpoint.manifest import MANIFEST_NAME, verify
from rlpost.checkpoint.space import CheckpointWriteError, disk_errors
from rlpost.checkpoint.state import read_json, write_json
from rlpost.checkpoint.store import CheckpointConfig, CheckpointStore, load_manifest
from rlpost.errors import DataError, InfrastructureError, UserError


def save(store: CheckpointStore, step: int, *, text: str = "weights") -> Path:
    scratch = store.begin(step)
    (scratch / "trainer").mkdir()
    (scratch / "trainer" / "rank_0.bin").write_bytes(text.encode() * 100)
    write_json(scratch / "driver.json", {"step": step, "text": text})
    return store.commit(scratch, step=step, config_hash="c0ffee")


def steps(store: CheckpointStore) -> list[str]:
    return sorted(p.name for p in store.root.iterdir() if p.is_dir())


def test_a_committed_checkpoint_is_complete_and_named_by_latest(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    path = save(store, 10)
    assert store.latest() == path
    assert (store.root / "latest").read_text() == "step_000010\n"
    manifest = load_manifest(path)
    assert (manifest.step, manifest.config_hash) == (10, "c0ffee")
    assert manifest.files["trainer/rank_0.bin"].size_bytes == 700
    assert read_json(path / "driver.json")["step"] == 10


def test_an_empty_or_absent_directory_has_no_latest(tmp_path):
    assert CheckpointStore(tmp_path / "absent").latest() is None


def test_an_unfinished_save_is_invisible_and_swept(tmp_path):
    store = CheckpointStore(tmp_path)
    scratch = store.begin(1)
    (scratch / "half").write_text("x")
    assert store.latest() is None
    other = CheckpointStore(tmp_path)  # the next process
    other.abort(other.begin(2))
    assert not scratch.exists()


def test_own_open_scratch_is_not_swept(tmp_path):
    store = CheckpointStore(tmp_path)
    scratch = store.begin(1)
    store.sweep()
    assert scratch.is_dir()


def test_an_aborted_checkpoint_leaves_nothing(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1)
    scratch = store.begin(2)
    (scratch / "part").write_text("x")
    store.abort(scratch)
    assert steps(store) == ["step_000001"]


def test_the_newest_are_kept_and_older_ones_pruned(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20, 30):
        save(store, step)
    assert steps(store) == ["step_000020", "step_000030"]


def test_the_best_one_is_never_pruned(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    scratch = store.begin(10)
    best = store.commit(scratch, step=10, config_hash="x", is_best=True)
    for step in (20, 30):
        save(store, step)
    assert steps(store) == ["step_000010", "step_000030"]
    assert (tmp_path / "best").read_text() == "step_000010\n"
    assert (store.best(), store.latest()) == (best, tmp_path / "step_000030")
    store.commit(store.begin(40), step=40, config_hash="x", is_best=True)
    assert steps(store) == ["step_000040"]


def test_the_pointer_to_the_best_names_whole_checkpoints_only(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    for step in (10, 20):
        save(store, step)
    assert store.mark_best(10) and store.best() == tmp_path / "step_000010"
    assert not store.mark_best(15) and store.best() is None  # there is none
    truncate(tmp_path / "step_000010" / "driver.json")
    assert not store.mark_best(10) and store.best() is None
    assert store.mark_best(20) and store.mark_best(None) and store.best() is None


@pytest.mark.parametrize("text", ["", "../step_000010", "latest", "step_000099", "\0"])
def test_a_pointer_that_names_no_checkpoint_is_none(tmp_path, text):
    save(CheckpointStore(tmp_path), 10)
    (tmp_path / "best").write_text(text)
    assert CheckpointStore(tmp_path).best() is None


def test_nothing_is_pruned_before_the_new_one_is_committed(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    scratch = store.begin(2)
    assert store.latest() == first
    store.commit(scratch, step=2, config_hash="x")
    assert steps(store) == ["step_000002"]


def test_going_back_to_an_earlier_step_makes_it_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (20, 30, 12):  # resumed from a checkpoint before 12
        save(store, step)
    assert store.latest() == tmp_path / "step_000012"
    assert steps(store) == ["step_000012", "step_000030"]


def test_committing_a_step_again_replaces_it(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5, text="old")
    path = save(store, 5, text="new")
    assert read_json(path / "driver.json")["text"] == "new"
    assert steps(store) == ["step_000005"]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
@pytest.mark.parametrize("file", ["trainer/rank_0.bin", "driver.json", MANIFEST_NAME])
def test_a_damaged_checkpoint_falls_back_to_the_previous(tmp_path, caplog, damage, file):
    store = CheckpointStore(tmp_path)
    good = save(store, 1)
    bad = save(store, 2)
    assert store.latest() == bad  # negative control: only the damage changes the answer
    damage(bad / file)
    with caplog.at_level(logging.WARNING):
        assert store.latest() == good
    assert "step_000002 is damaged" in caplog.text
    with pytest.raises(DataError, match=file.rsplit("/", 1)[-1]):
        load_manifest(bad)


def test_sizes_alone_do_not_see_a_flipped_bit(tmp_path):
    store = CheckpointStore(tmp_path)
    path = save(store, 1)
    flip_a_bit(path / "trainer/rank_0.bin")
    assert store.latest(hashes=False) == path
    assert store.latest() is None


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    truncate(save(store, 2) / "driver.json")
    save(store, 3)
    assert steps(store) == ["step_000001", "step_000003"]


def test_a_directory_without_manifest_is_not_a_checkpoint(tmp_path):
    (tmp_path / "step_000007").mkdir()
    (tmp_path / "step_000007" / "driver.json").write_text("{}")
    assert CheckpointStore(tmp_path).latest() is None
    with pytest.raises(DataError, match="MANIFEST"):
        load_manifest(tmp_path / "step_000007")
    with pytest.raises(UserError, match=r"resume must be auto, never or"):
        load_manifest(tmp_path / "step_000008")


def die_at_event(store: CheckpointStore, number: int, step: int) -> bool:
    """Save in a child that kills itself at its ``number``-th file operation; did it die?"""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def count(event: str, _args: tuple[object, ...]) -> None:
            nonlocal seen
            if event in {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"}:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        save(store, step, text=f"step {step} ")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        assert os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("step", [2, 1], ids=["new step", "same step again"])
def test_a_kill_at_any_file_operation_loses_no_committed_checkpoint(tmp_path, step):
    number, deaths = 1, 0
    while True:
        store = CheckpointStore(tmp_path / str(number), keep=1)
        save(store, 1, text="first ")
        died = die_at_event(store, number, step)
        survivor = store.latest()
        assert survivor is not None
        text = read_json(survivor / "driver.json")["text"]
        assert text in {"first ", f"step {step} "}
        save(store, 3)  # the next run cleans up and goes on
        assert steps(store) == ["step_000003"]
        if not died:
            assert text == f"step {step} "
            break
        number, deaths = number + 1, deaths + 1
    assert deaths > 10  # the loop really went through the protocol


WRITER = """
import sys
from pathlib import Path
from rlpost.checkpoint.store import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), keep=2)
latest = store.latest()
step = 0 if latest is None else int(latest.name[-6:])
print("ready", flush=True)
while True:
    step += 1
    scratch = store.begin(step)
    for name in "abcd":
        (scratch / name).write_bytes(bytes([step % 256]) * 200_000)
    store.commit(scratch, step=step, config_hash="x")
    print(step, flush=True)
"""


def test_kill_9_of_a_writer_at_random_moments(tmp_path):
    rng = random.Random(7)
    reached = 0
    for committed in (0, 1, 2, 0, 1, 2, 0, 1):  # steps before the kill, however slow the disk is
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            for _ in range(committed):
                assert writer.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.1))
            writer.kill()
        latest = CheckpointStore(tmp_path).latest()
        if latest is not None:
            step = verify(latest, hashes=True).step
            assert step >= reached + committed
            assert set((latest / "a").read_bytes()) == {step % 256}
            reached = step
    assert reached >= 7


def test_a_full_disk_is_an_error_the_loop_survives(tmp_path):
    store = CheckpointStore(tmp_path)
    good = save(store, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a file over 4 kB: EFBIG
    try:
        scratch = store.begin(2)
        with pytest.raises(CheckpointWriteError, match="step_000002"), disk_errors(scratch):
            (scratch / "big.bin").write_bytes(b"x" * 10_000)
        store.abort(scratch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert issubclass(CheckpointWriteError, InfrastructureError)
    assert steps(store) == [good.name]
    assert store.latest() == good
    assert save(store, 2).is_dir()  # space came back


def test_a_really_full_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root; RLIMIT_FSIZE covers the rest")
    try:
        store = CheckpointStore(tmp_path)
        good = save(store, 1)
        scratch = store.begin(2)
        with pytest.raises(CheckpointWriteError, match="No space left"), disk_errors(scratch):
            (scratch / "big.bin").write_bytes(b"x" * 1_000_000)
        store.abort(scratch)
        assert store.latest() == good
        with pytest.raises(UserError, match=r"checkpoint\.keep=2 needs 1\.5 MB"):
            store.require_space(500_000)
        store.require_space(10_000)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_too_little_space_is_said_before_the_run(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep=2)
    with pytest.raises(UserError, match=r"needs 3000\.0 TB .* available; free some space"):
        store.require_space(10**15)
    store.require_space(1)
    assert list(tmp_path.iterdir()) == []  # a check leaves nothing behind


def test_a_place_that_cannot_be_written_is_said_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"set run\.dir"):
        CheckpointStore(tmp_path / "file" / "checkpoints").require_space(1)


def test_config_rules():
    with pytest.raises(UserError, match=r"checkpoint\.keep must be in \[1, .*got 0"):
        check_config(CheckpointConfig(keep=0), "checkpoint")
    with pytest.raises(UserError, match=r"checkpoint\.every must be in \[0, "):
        check_config(CheckpointConfig(every=-1), "checkpoint")


def test_a_pointer_that_cannot_be_written_costs_no_checkpoint(tmp_path, caplog):
    """`latest` then names an older one, which therefore stays."""
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest" / "in the way").mkdir(parents=True)
    save(store, 2)
    assert store.latest().name == "step_000002"
    assert (tmp_path / "step_000001").is_dir()
    assert "step_000002 is saved, but `latest` still names the previous" in caplog.text
