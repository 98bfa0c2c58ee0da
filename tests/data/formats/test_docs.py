"""The example rows of docs/data.md are read in the format whose heading they stand below."""

import json
import re
from pathlib import Path

import pytest

from rlpost.data.formats.table import FORMATS, recognise
from rlpost.data.records import Completion, Conversation, Document, Judged, Pair, Stepwise
from rlpost.data.rows import Row

PAGE = (Path(__file__).parents[3] / "docs/data.md").read_text()
ALL = (Conversation, Completion, Document, Pair, Judged, Stepwise)


def examples() -> list[tuple[str, str]]:
    found = []
    for section in PAGE.split("\n### ")[1:]:
        name = section.splitlines()[0]
        found += [(name, row) for row in re.findall(r"```json\n(.*?)\n```", section, re.S)]
    return found


@pytest.mark.parametrize(("name", "text"), examples())
def test_an_example_row_is_read(name: str, text: str) -> None:
    row = Row(columns=json.loads(text), address="docs/data.md")
    found = recognise(row, accepts=ALL)
    assert found.name == name
    assert isinstance(found.read(row), found.kind)


def test_every_format_has_an_example() -> None:
    assert {name for name, _ in examples()} == set(FORMATS)
