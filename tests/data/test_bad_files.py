"""Bad data of many kinds: one paragraph with file and line, and nothing is written.

Loaded by the function that every command calls before anything starts; some also by the
command itself.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bad_data import BadFile, bad_files, bad_rows
from chat_templates import SYSTEM_FIRST

from rlpost.cli.main import main
from rlpost.data.bad_rows import OnBadRow, OnLongPrompt
from rlpost.data.dataset import DataConfig, PromptDataset
from rlpost.errors import DataError, UserError
from rlpost.models.tiny import byte_tokenizer
from rlpost.verifiers.kinds.exact import ExactConfig

ROWS, FILES = list(bad_rows()), list(bad_files())


@pytest.fixture(scope="module")
def load() -> Any:
    """The loader as a run with ``verifier=exact`` calls it."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = SYSTEM_FIRST
    return partial(
        PromptDataset.load,
        tokenizer=tokenizer,
        max_prompt_tokens=600,
        columns={"answer": "verifier=exact"},
        refuse=ExactConfig().refusal,
    )


def by_name(case: BadFile) -> str:
    return case.name


def test_there_are_enough_kinds() -> None:
    names = [case.name for case in ROWS + FILES]
    assert len(set(names)) == len(names) >= 200


@pytest.mark.parametrize("case", ROWS, ids=by_name)
def test_a_bad_row_is_named_and_costs_itself_only(load: Any, tmp_path: Path, case: BadFile) -> None:
    path = tmp_path / case.file
    case.write(path)
    said = refused(load, path)
    assert said.startswith(f"{path}{case.place}") and case.rule in said, said
    skipping = DataConfig(
        train=str(path), on_bad_row=OnBadRow.skip, on_long_prompt=OnLongPrompt.skip
    )
    data = load(skipping)
    assert [data.prompt(0, row).address.removeprefix(str(path)) for row in range(len(data))] == (
        ["[0]", "[2]"] if "[" in case.place else [":1", ":3"]
    )
    assert data.skipped == [said]


@pytest.mark.parametrize("case", FILES, ids=by_name)
def test_a_bad_file_is_named(load: Any, tmp_path: Path, case: BadFile) -> None:
    path = tmp_path / case.file
    case.write(path)
    said = refused(load, path)
    assert said.startswith(f"{path}{case.place}") and case.rule in said, said


def refused(load: Any, path: Path) -> str:
    """Return the refusal of a file: one short paragraph; the directory stays as it is."""
    before = path.read_bytes()
    with pytest.raises(DataError) as caught:
        load(DataConfig(train=str(path)))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before
    said = str(caught.value)
    assert said.isprintable() and len(said) < 1000 + len(str(path)), said
    return said


def test_good_rows_of_every_kind_are_read(load: Any, tmp_path: Path) -> None:
    """Negative control: what surrounds the bad rows is good, and so is much that looks odd."""
    odd = [
        '{"prompt": "a \\u0000 \\uffff \\ud83d\\ude00 \\u202e", "answer": 12345678901234567890123}',
        '{"prompt": "x", "answer": "1", "extra": ' + "[" * 99 + "]" * 99 + "}",
        '  {"prompt": "x", "answer": -0.5e-300, "missing": NaN, "tools": "[]"}  ',
        '{"prompt": [{"role": "user", "content": "x", "name": null}], "answer": 0}',
    ]
    for end, start in ((b"\n", b""), (b"\r\n\r\n", b"\xef\xbb\xbf")):
        path = tmp_path / "good.jsonl"
        path.write_bytes(start + end.join(line.encode() for line in odd))
        data = load(DataConfig(train=str(path)))
        assert (len(data), data.skipped) == (len(odd), [])


@pytest.mark.parametrize(
    ("train", "rule"),
    [
        ("nowhere.jsonl", "does not exist"),
        ("folder.jsonl", "has no file that ends in"),
        ("rows.csv", "must end in one of .jsonl, .json, .parquet, .arrow"),
        ("rows.jsonl.zst", "must end in one of"),
        ("x" * 4000 + ".jsonl", "does not exist"),
        ("no such source", "no data source is called 'no such source'"),
        ("hub:a b", "is not a hub id"),
        ("nobody/nothing-at-all", "cannot be loaded"),
        ("reasoning_gym:no_such_task", "has no task"),
    ],
)
def test_a_name_without_rows(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str, rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.jsonl").mkdir()
    for name in ("rows.csv", "rows.jsonl.zst"):
        Path(name).touch()
    with pytest.raises(UserError, match=rf"^data\.train: .*{rule}"):
        load(DataConfig(train=train if "/" in train or ":" in train else f"{train}"))


@pytest.mark.parametrize("stage", ["rl", "rft"])
@pytest.mark.parametrize(
    "name", ["lines-depth_3000", "unix-latin_1", "train.parquet-text_not_utf8", "lines-answer_list"]
)
def test_the_command_exits_2_with_one_paragraph(
    name: str,
    stage: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (case,) = (each for each in ROWS if each.name == name)
    case.write(tmp_path / case.file)
    monkeypatch.chdir(tmp_path)
    options = [f"model.path={tiny_model}", f"data.train={case.file}", "verifier=exact"]
    assert main(["plan", stage, *options]) == 2
    out, err = capfd.readouterr()
    said = " ".join(err.split())
    assert f"error: {case.file}{case.place}" in said and case.rule in said
    assert "Traceback" not in out + err
    assert [each.name for each in tmp_path.iterdir()] == [case.file]
