import json

import pytest

from rlpost.errors import DataError
from rlpost.tracking.files.examples import read_examples, write_examples

EXAMPLE = {
    "source": "chat",
    "address": "train.jsonl:17",
    "judgement": "chosen, margin 0.5",
    "num_tokens": 9,
    "num_trained": 2,
    "runs": [["<|user|>2 + 2?\n<|assistant|>", False], ["4<|end|>", True]],
}


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "examples.jsonl"
    assert read_examples(path) == []
    write_examples(path, [EXAMPLE, {**EXAMPLE, "source": "数"}])
    assert [each["source"] for each in read_examples(path)] == ["chat", "数"]
    assert read_examples(path)[0] == EXAMPLE
    write_examples(path, [{**EXAMPLE, "runs": [["half \ud800", True]]}])  # no valid text
    assert read_examples(path)[0]["runs"] == [["half ?", True]]


@pytest.mark.parametrize("changes", [None, {"runs": [3]}, {"num_tokens": "many"}, {"runs": None}])
def test_a_line_that_is_no_example_has_an_address(tmp_path, changes):
    line = "[1]" if changes is None else json.dumps({**EXAMPLE, **changes})
    path = tmp_path / "examples.jsonl"
    write_examples(path, [EXAMPLE])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"examples\.jsonl:2: not a training example"):
        read_examples(path)
