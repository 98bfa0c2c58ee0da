"""Records on disk: whole, plain JSON, with an address when they are not."""

import math

import pytest

from rlpost.checkpoint.state import read_json, write_json
from rlpost.errors import DataError


def test_a_record_comes_back_and_leaves_no_neighbour(tmp_path):
    path = tmp_path / "driver.json"
    write_json(path, {"step": 3, "uids": ["0:1"]})
    write_json(path, {"step": 4, "uids": []})
    assert read_json(path) == {"step": 4, "uids": []}
    assert [p.name for p in tmp_path.iterdir()] == ["driver.json"]


def test_a_record_that_json_cannot_carry_leaves_the_old_one(tmp_path):
    path = tmp_path / "driver.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"loss": math.nan})
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})
    assert read_json(path) == {"loss": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1,\n"b": }', r"driver\.json:2:6: not JSON"), ("[1]", "must hold a JSON object")],
)
def test_a_bad_record_has_an_address(tmp_path, content, message):
    path = tmp_path / "driver.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_json(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "absent.json")
