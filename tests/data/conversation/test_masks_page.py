"""docs/masks.md is true: its example runs, its table is what the families give."""

import re
from pathlib import Path

import pytest
from chat_families import FAMILIES

import rlpost.data.conversation as room
from rlpost.data.conversation.marks import TrainOn

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/masks.md").read_text()
SOURCE = "".join(path.read_text() for path in Path(room.__file__).parent.glob("*.py"))


def rows(title: str) -> list[list[str]]:
    """Cells of the table that follows a title, without its head."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in lines]
    return cells[1:]


def test_the_example_prints_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    code, shown = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", PAGE, re.S).groups()
    exec(compile(code, "docs/masks.md", "exec"), {})
    assert capsys.readouterr().out == shown


def test_the_table_of_families_is_what_the_tests_find() -> None:
    found = {
        name: "refused" if family.refused else f"{len(family.marked)} example"
        for name, family in FAMILIES.items()
    }
    stated = {cells[0].strip(): cells[1].strip().removesuffix("s") for cells in rows("Families")}
    assert stated == found


@pytest.mark.parametrize(
    "message", [cells[0].strip("` ") for cells in rows("What a refusal means")]
)
def test_messages_are_quoted_as_they_are(message: str) -> None:
    joined = re.sub(r'"\s+f?"', "", SOURCE)
    assert message in joined


def test_every_option_is_listed() -> None:
    assert [cells[0].strip("` ") for cells in rows("Options")] == [each.value for each in TrainOn]
