"""The answers file: whole items or nothing, whenever its writer dies."""

import json

import pytest
from stages.evaluate.rows import answer, group

from rlpost.errors import DataError
from rlpost.stages.evaluate.answers_file import AnswersFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evaluation.jsonl"


def written(path, *uids):
    file = AnswersFile(path, samples=2)
    for uid in uids:
        file.add(group(uid, 1.0, 0.0))
    return file


def test_what_was_added_is_read_back(path):
    file = written(path, "0:0", "0:1")
    again = AnswersFile(path, samples=2)
    assert again.items == file.items
    assert again.items["model", "d", "0:1"] == tuple(group("0:1", 1.0, 0.0))


def test_a_kill_at_any_byte_costs_at_most_the_item_that_was_written(path):
    written(path, "0:0")
    one = path.read_bytes()
    written(path, "0:1")
    both = path.read_bytes()
    for size in range(len(one), len(both)):
        path.write_bytes(both[:size])
        file = AnswersFile(path, samples=2)
        assert list(file.items) == [("model", "d", "0:0")]
        file.repair()
        assert path.read_bytes() == one
        file.add(group("0:1", 1.0, 0.0))
        assert path.read_bytes() == both


def test_nothing_is_written_before_the_repair(path):
    path.write_bytes(b'{"model": "mo')
    file = AnswersFile(path, samples=2)
    assert path.read_bytes() == b'{"model": "mo'
    file.repair()
    assert path.read_bytes() == b""


def test_a_whole_line_that_is_no_answer_is_named(path):
    written(path, "0:0")
    with path.open("a") as file:
        file.write('{"model": "model"}\n')
    with pytest.raises(DataError, match=r"evaluation.jsonl:3: not an answer .*; remove the line"):
        AnswersFile(path, samples=2)
    path.write_text("[1\n")
    with pytest.raises(DataError, match=r"evaluation.jsonl:1: not an answer"):
        AnswersFile(path, samples=2)


def test_items_with_fewer_samples_than_asked_for_are_answered_again(path):
    written(path, "0:0")
    assert AnswersFile(path, samples=3).items == {}


def test_an_item_is_not_added_twice(path):
    file = written(path, "0:0")
    with pytest.raises(AssertionError):
        file.add(group("0:0", 1.0, 0.0))


def test_the_order_of_the_data_does_not_depend_on_who_was_first(path):
    written(path, "0:1", "0:0").put_in_order([("model", "d", uid) for uid in ("0:0", "0:1")])
    first = path.read_bytes()
    path.unlink()
    written(path, "0:0", "0:1").put_in_order([("model", "d", uid) for uid in ("0:0", "0:1")])
    assert path.read_bytes() == first


def test_a_row_is_one_line_of_json_whatever_it_holds(path):
    text = answer().to_json()
    assert "\n" not in text and json.loads(text)["response"].startswith("<b>4</b>")
    assert answer().outcome.reward == 1.0 and not answer().outcome.failed
    assert answer(reward=None, error="timeout").outcome.failed
