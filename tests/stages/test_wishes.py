"""What ``rlpost scale`` leaves is what the run finds."""

import os

import pytest

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.wishes import wanted_generators, wish_for_generators


def test_a_wish_is_found_and_a_newer_one_replaces_it(tmp_path, capsys):
    path = RunDirectory(root=tmp_path).wishes
    look = wanted_generators(path)
    assert look() is None
    assert main(["scale", str(tmp_path), "3"]) == 0 and "3 generators" in capsys.readouterr().out
    assert look() == 3
    wish_for_generators(path, 2)
    os.utime(path, (1, 1))  # another time, whatever the clock's resolution
    assert look() == 2 == look()


def test_what_is_no_wish_is_left_alone(tmp_path, caplog):
    path = RunDirectory(root=tmp_path).wishes
    path.write_text('{"generators": "many"}')
    look = wanted_generators(path)
    assert look() is None and "not a wish" in caplog.text


def test_impossible_wishes_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="at least 1, got 0"):
        wish_for_generators(tmp_path / "wishes.json", 0)
    assert main(["scale", str(tmp_path / "nowhere"), "2"]) == 2
    assert "no run directory" in " ".join(capsys.readouterr().err.split())
