"""Where the cache is, and directories that are there as a whole or not at all."""

import os
import time
from pathlib import Path

import pytest

from rlpost import cache
from rlpost.cache import cache_of_checkout, cache_root, cached, publish_directory
from rlpost.cli.main import main
from rlpost.errors import UserError


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "model"

    def fail(target: Path) -> None:
        (target / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_directory(final, fail)
    assert list(tmp_path.iterdir()) == []
    publish_directory(final, lambda target: (target / "whole").write_text("x"))
    publish_directory(final, fail)  # exists: kept, not written again
    assert [p.name for p in final.iterdir()] == ["whole"]


def test_the_command_and_make_of_a_checkout_share_a_cache(tmp_path, monkeypatch):
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    (checkout / ".venv").mkdir(parents=True)
    assert cache_of_checkout(checkout, prefix=checkout / ".venv") == checkout / ".cache"
    assert cache_of_checkout(checkout, prefix=tmp_path / "other" / ".venv") is None
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("RLPOST_CACHE")
    monkeypatch.setattr("sys.prefix", "/usr")
    assert cache_root() == home / ".cache" / "rlpost"
    ours = Path(cache.__file__).resolve().parents[1]
    monkeypatch.setattr("sys.prefix", str(ours / ".venv"))
    assert cache_root() == ours / ".cache"  # Makefile: RLPOST_CACHE ?= $(CURDIR)/.cache
    monkeypatch.setenv("RLPOST_CACHE", "~/elsewhere")
    assert cache_root() == home / "elsewhere"


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / ".model.killed.rlpost-partial"
    recent, strange = tmp_path / ".model.recent.rlpost-partial", tmp_path / ".git"
    long_ago = time.time() - 2 * cache._ABANDONED_AFTER_S
    for each in (left, recent, strange):
        each.mkdir()
        (each / "half").touch()
    for each in (left, strange):
        os.utime(each, (long_ago, long_ago))

    def slow(target: Path) -> None:
        """Another process publishes while this one has been writing for hours."""
        os.utime(target, (long_ago, long_ago))
        publish_directory(tmp_path / "other", lambda _: None)
        (target / "whole").touch()

    publish_directory(tmp_path / "model", slow)
    assert {each.name for each in tmp_path.iterdir()} == {
        "model",
        "other",
        recent.name,
        strange.name,
    }
    assert (tmp_path / "model" / "whole").exists()


UNUSABLE = {
    "a file": lambda place: (place / "file").touch() or place / "file",
    "below a file": lambda place: (place / "file").touch() or place / "file" / "cache",
    "a name that is too long": lambda place: place / ("x" * 300),
    "a place where nothing can be made": lambda place: Path("/proc/cache"),
    "nobody's home": lambda place: "~rlpost-nobody/cache",
}


@pytest.fixture(params=UNUSABLE, ids=str)
def unusable(request, tmp_path, monkeypatch):
    cache = UNUSABLE[request.param](tmp_path)
    monkeypatch.setenv("RLPOST_CACHE", str(cache))
    return str(cache)


def test_a_cache_that_cannot_be_used_is_named(unusable):
    with pytest.raises(UserError) as caught:
        cached("corpora", "key", write=lambda _: None)
    said = str(caught.value)
    assert f"RLPOST_CACHE={unusable} must be a directory" in said
    assert "set RLPOST_CACHE to another directory" in said


@pytest.mark.parametrize(
    "words",
    [
        ["sft", "data.train=train.jsonl", "data.workers=0"],
        ["pretrain", "data.train=text.jsonl", "data.workers=0", "data.window=64"],
        ["evaluate", "suites=[format]"],
        ["rl", "experiment=quickstart"],
    ],
    ids=lambda words: words[0],
)
def test_every_stage_refuses_it_before_anything_is_written(
    words, tmp_path, tiny_model, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    row = '{"prompt": "2 + 2?", "completion": "4"}\n'
    (tmp_path / "train.jsonl").write_text(row)
    (tmp_path / "text.jsonl").write_text('{"text": "a document"}\n')
    before = sorted(tmp_path.iterdir())
    encodes = words[0] in ("sft", "pretrain")  # the others keep the embedded model in the cache
    model = tiny_model if encodes else "smollm2-135m-instruct"
    assert main([*words, f"model.path={model}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"RLPOST_CACHE={tmp_path / 'file'} must be a directory" in said, said
    assert "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_the_cache_s_and_another_failure_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path))

    def full(_: Path) -> None:
        Path("/dev/full").write_text("x")

    def elsewhere(_: Path) -> None:
        Path("/nowhere/train.jsonl").read_text()

    with pytest.raises(UserError, match="No space left on device; set RLPOST_CACHE"):
        cached("corpora", "key", write=full)
    with pytest.raises(FileNotFoundError):
        cached("corpora", "key", write=elsewhere)
    assert list((tmp_path / "corpora").iterdir()) == []
    monkeypatch.delenv("RLPOST_CACHE")
    monkeypatch.setattr("sys.prefix", "/usr")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"the cache .*/\.cache/rlpost \(RLPOST_CACHE is not set\)"):
        cached("corpora", "key", write=full)
