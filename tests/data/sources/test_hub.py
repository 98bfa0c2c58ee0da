"""Hub names. ``datasets`` also loads a folder ``owner/name``, so no network is needed."""

from pathlib import Path

import pytest

from rlpost.data.rows import Row, Split
from rlpost.data.sources.load import load_rows
from rlpost.errors import UserError


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import datasets

    folder = tmp_path / "owner" / "sums"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"prompt": "1 + 1"}\n{"prompt": "1 + 2"}\n')
    (folder / "test.jsonl").write_text('{"prompt": "9 + 9"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return "hub:owner/sums"


@pytest.mark.parametrize(
    ("suffix", "split", "prompts"),
    [
        ("", Split.TRAIN, ["1 + 1", "1 + 2"]),
        ("", Split.HELDOUT, ["9 + 9"]),
        (":default@train[:1]", Split.HELDOUT, ["1 + 1"]),
    ],
)
def test_split_follows_the_name_or_the_use(
    repository: str, suffix: str, split: Split, prompts: list[str]
) -> None:
    name = repository + suffix
    found = list(load_rows(name, split=split))
    assert found == [
        Row(columns={"prompt": prompt}, address=f"{name}[{index}]")
        for index, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("suffix", ["@nope", ":nope"])
def test_what_cannot_be_loaded_is_a_user_error(repository: str, suffix: str) -> None:
    with pytest.raises(UserError, match=r"data\.heldout: the dataset 'owner/sums.*nope") as caught:
        load_rows(repository + suffix, field="data.heldout")
    assert "or give a local file" in str(caught.value)


def test_explicit_scheme_with_a_bad_id() -> None:
    with pytest.raises(UserError, match="'no slash' is not a hub id"):
        load_rows("hub:no slash")
