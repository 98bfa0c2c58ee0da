"""What ``rlpost scale`` leaves is what the run finds."""

import os

import pytest

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.scale_request import request_generators, requested_generators


def test_a_wish_is_found_and_a_newer_one_replaces_it(tmp_path, capsys):
    RunDirectory(root=tmp_path).write_config({})
    path = RunDirectory(root=tmp_path).scale_request
    look = requested_generators(path)
    assert look() is None
    assert main(["scale", str(tmp_path), "3"]) == 0 and "3 generators" in capsys.readouterr().out
    assert look() == 3
    request_generators(path, 2)
    os.utime(path, (1, 1))  # another time, whatever the clock's resolution
    assert look() == 2 == look()


def test_what_is_no_wish_is_left_alone(tmp_path, caplog):
    path = RunDirectory(root=tmp_path).scale_request
    for text in ('{"generators": "many"}', '{"generators": Infinity}', "[" * 100_000):
        path.write_text(text)
        assert requested_generators(path)() is None and "not a scale request" in caplog.text
        caplog.clear()


def test_impossible_wishes_are_refused(tmp_path, capsys):
    for num in (0, 10**30):
        with pytest.raises(UserError, match=r"generator\.num must be in \[1, 10000\], got "):
            request_generators(tmp_path / "scale_request.json", num)
    for place in (tmp_path / "nowhere", tmp_path):
        assert main(["scale", str(place), "2"]) == 2
        assert "no run directory" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
