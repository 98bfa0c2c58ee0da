"""Names find their source; new sources need one line; errors name a way out."""

from pathlib import Path

import pytest

from rlpost.data.rows import Row
from rlpost.data.sources import load
from rlpost.data.sources.load import (
    find_source,
    load_rows,
    register_source,
    same_file,
    short_name,
)
from rlpost.errors import UserError


@pytest.mark.parametrize(
    ("name", "scheme", "locator", "short"),
    [
        ("arithmetic", "arithmetic", "", "arithmetic"),
        ("reasoning_gym:chain_sum", "reasoning_gym", "chain_sum", "chain_sum"),
        ("data/eval.jsonl", "file", "data/eval.jsonl", "eval"),
        ("file:eval.parquet", "file", "eval.parquet", "eval"),
        ("openai/gsm8k", "hub", "openai/gsm8k", "gsm8k"),
        ("openai/gsm8k:main@test[:5]", "hub", "openai/gsm8k:main@test[:5]", "gsm8k"),
        ("hub:a/b", "hub", "a/b", "b"),
    ],
)
def test_names(name: str, scheme: str, locator: str, short: str) -> None:
    source, found = find_source(name, field="data.train")
    assert (source.scheme, found) == (scheme, locator)
    assert short_name(name) == short


def test_existing_file_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_source("data/train", field="f")[0].scheme == "hub"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").touch()
    assert find_source("data/train", field="f")[0].scheme == "file"


def test_unknown_names_suggest_the_closest() -> None:
    with pytest.raises(UserError, match=r"data.heldout: .*'arithmetc' \(did you mean 'arithmetic'"):
        find_source("arithmetc", field="data.heldout")
    with pytest.raises(UserError, match="reasoning_gym:TASK") as caught:
        find_source("zzz", field="data.train")
    assert "did you mean" not in str(caught.value)


def test_a_new_source_is_one_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_SOURCES", dict(load._SOURCES))

    def echo(request):
        yield Row(columns={"prompt": request.locator}, address=f"{request.name}[0]")

    register_source("echo", echo, generated=True)
    (row,) = load_rows("echo:hello")
    assert row.columns == {"prompt": "hello"}
    with pytest.raises(ValueError, match="'echo' is already registered"):
        register_source("echo", echo, generated=True)


def test_one_file_under_two_names_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").touch()
    Path("b.jsonl").symlink_to("a.jsonl")
    Path("folder").mkdir()
    for other in ("./a.jsonl", "b.jsonl", str(tmp_path / "a.jsonl"), "file:a.jsonl"):
        assert same_file("a.jsonl", other, field="f")
    for other in ("c.jsonl", "arithmetic", "owner/a.jsonl"):
        assert not same_file("a.jsonl", other, field="f")
    assert not same_file("folder", "./folder", field="f")  # it may hold both splits
