"""Where the cache is, and directories that are there as a whole or not at all."""

import os
import time
from pathlib import Path

import pytest

from rlpost import cache
from rlpost.cache import cache_of_checkout, cache_root, publish_directory


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
