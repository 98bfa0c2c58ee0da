"""A run's directory: one driver at a time, and one name on its host."""

import pytest

from rlpost.errors import UserError
from rlpost.stages.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(root=tmp_path / "x")


def test_two_drivers_cannot_share_a_directory(directory):
    with directory.lock(), pytest.raises(UserError, match="another process"):
        directory.lock()
    directory.lock().close()


def test_a_resumed_run_has_the_name_it_had_on_this_host(directory, tmp_path):
    assert directory.host_wide_id == RunDirectory(root=tmp_path / "x").host_wide_id
    assert directory.host_wide_id != RunDirectory(root=tmp_path / "z" / "x").host_wide_id
    assert directory.host_wide_id.startswith("x-")
