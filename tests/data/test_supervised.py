"""Options of data that cannot work are refused before any data is read."""

from pathlib import Path
from typing import Any

import pytest

from rlpost.bounds import check_config
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig
from rlpost.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("chat", "code", "books"):
        Path(f"{name}.jsonl").touch()


def sources(**options: Any) -> dict[str, SourceConfig]:
    return {name: SourceConfig(path=f"{name}.jsonl", **each) for name, each in options.items()}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({}, r"data\.train and data\.sources name the rows to train on, and neither is given"),
        ({"train": "chat.jsonl", "sources": sources(code={})}, "and both are given"),
        ({"train": "no such"}, r"data\.train: no data source is called"),
        ({"train": "chat.jsonl", "size": 3}, r"data\.size=3 applies to generated sources"),
        ({"sources": sources(chat={"size": 3})}, r"data\.sources\.chat\.size=3 applies to gener"),
        ({"sources": {"a": SourceConfig()}}, r"data\.sources\.a\.path: no data source is called"),
        (
            {"sources": {"a:b": SourceConfig(path="chat.jsonl")}},
            r"data\.sources\.'a:b': the name of a source must be letters",
        ),
        (
            {"sources": {n: SourceConfig(path=f"{n}.jsonl") for n in ("chat", "code")} | {
                "Chat": SourceConfig(path="books.jsonl")}},
            "differ in capital letters only",
        ),
        (
            {"sources": {n: SourceConfig(path="./chat.jsonl") for n in ("a", "b")}},
            r"data\.sources\.b\.path and data\.sources\.a\.path are the same",
        ),
        (
            {"sources": sources(chat={"weight": 1}, code={})},
            r"data\.sources\.code\.weight is not given, but other sources have one",
        ),
        (
            {"sources": sources(chat={"weight": 1, "fraction": 1})},
            "both weight and fraction",
        ),
        (
            {"sources": sources(chat={"weight": 0}, code={"weight": 0})},
            r"data\.sources: the weights of all sources sum to 0",
        ),
        (
            {"sources": sources(chat={"weight": -1}, code={"weight": 1})},
            r"data\.sources\.chat\.weight must be in \[0, 1e9\], got -1",
        ),
        (
            {"sources": sources(chat={"fraction": float("nan")})},
            r"data\.sources\.chat\.fraction must be in \(0, 1000\], got nan",
        ),
        ({"sources": sources(chat={}), "format": "text"}, r"data\.format and data\.columns to it"),
        ({"sources": sources(chat={}), "heldout": "code.jsonl", "size": 3}, r"^data\.size belongs"),
        (
            {"train": "chat.jsonl", "heldout": "./chat.jsonl"},
            r"data\.heldout and data\.train are the same file",
        ),
        (
            {"sources": sources(chat={}, code={}), "heldout": "code.jsonl"},
            r"data\.heldout and data\.sources\.code\.path are the same file",
        ),
        (
            {"train": "chat.jsonl", "heldout": "code.jsonl", "heldout_fraction": 0.5},
            "both say what is held out",
        ),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        check_config(SupervisedDataConfig(**options), "data")


@pytest.mark.parametrize(
    "options",
    [
        {"train": "chat.jsonl", "heldout": "code.jsonl"},
        {"train": "chat.jsonl", "format": "text", "columns": {"text": "body"}},
        {"sources": sources(chat={"weight": 1}, code={"weight": 0})},
        {"sources": sources(chat={"fraction": 0.5}, code={"fraction": 3})},
        {"sources": sources(chat={}, code={}), "heldout": "books.jsonl", "format": "text"},
        {"train": "arithmetic", "size": 10, "heldout_fraction": 0.1},
    ],
)
def test_possible_settings_pass(options: dict[str, Any]) -> None:
    check_config(SupervisedDataConfig(**options), "data")
