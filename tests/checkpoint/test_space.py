"""What a refusing disk turns into."""

import pytest

from rlpost.checkpoint.space import CheckpointWriteError, disk_errors, format_bytes, tree_bytes


def test_errors_of_libraries_that_mean_a_full_disk_are_recognised(tmp_path):
    from safetensors import SafetensorError

    full = SafetensorError("I/O error: No space left on device (os error 28)")
    for error in (OSError(28, "No space left on device"), full):
        with pytest.raises(CheckpointWriteError, match="free there"), disk_errors(tmp_path):
            raise error


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(ValueError, match="a bug"), disk_errors(tmp_path):
        raise ValueError("a bug")


def test_sizes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"1")
    assert tree_bytes(tmp_path) == 6
    assert [format_bytes(n) for n in (5, 1500, 1.73e9, 2e12)] == [
        "5 B", "1.5 kB", "1.7 GB", "2.0 TB",
    ]  # fmt: skip
