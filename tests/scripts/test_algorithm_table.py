"""docs/algorithms.md says what the registries say, and names only what exists."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from omegaconf import OmegaConf

import rlpost
from rlpost.bounds import option
from rlpost.config.options import known_keys
from rlpost.registry import Entry

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location(
    "algorithm_table", ROOT / "scripts" / "algorithm_table.py"
)
assert spec is not None and spec.loader is not None
table = importlib.util.module_from_spec(spec)
sys.modules["algorithm_table"] = table
spec.loader.exec_module(table)

VARIANTS = [(group, entry) for _, group, registry in table.documented() for entry in registry]
each_variant = pytest.mark.parametrize(
    ("group", "entry"), VARIANTS, ids=[f"{g}={e.name}" for g, e in VARIANTS]
)
SOURCE = "".join(path.read_text() for path in Path(rlpost.__file__).parent.rglob("*.py"))
METRIC = re.compile(r"`([a-z]\w*(?:/\w+)+)`")
OPTION = re.compile(r"`([a-z]\w*(?:\.\w+)+)(?:=[^`]*)?`")


@pytest.fixture(scope="module")
def document() -> str:
    return table.render()


def test_the_committed_document_is_up_to_date(document):
    assert table.DOCUMENT.read_text() == document, "docs/algorithms.md is stale: run `make docs`"


@each_variant
def test_every_variant_is_described(document, group, entry):
    variant = table.describe(group, entry)
    typed = f"| {variant.typed}<br>{variant.source}"
    (row,) = [x for x in document.splitlines() if x.startswith(typed)]
    for text in (variant.formula, variant.source, variant.needs, variant.use, variant.watch):
        assert text in row
    assert variant.formula and variant.use and variant.watch
    assert "https://" in variant.source, "name an arXiv id or an address in the config's docstring"
    for each in variant.options:
        assert f"| `{variant.name}` | `{each.path}` | `{each.default}` |" in document


@each_variant
def test_use_and_watch_are_one_sentence_and_no_options(group, entry):
    for text in (entry.config.use, entry.config.watch):
        assert text.endswith(".") and ". " not in text and len(text) < 220
    assert not {"use", "watch"} & set(OmegaConf.structured(entry.config))


def test_options_of_the_document_exist(document):
    keys = set(known_keys("rl"))
    keys |= {each.path for variant in VARIANTS for each in table.describe(*variant).options}
    parents = {key.rsplit(".", n)[0] for key in keys for n in (1, 2)}
    files = {"algorithms.md.j2", "algorithm_table.py"}
    unknown = set(OPTION.findall(document)) - keys - parents - files
    assert not unknown


def test_metrics_of_the_document_exist(document):
    names = set(METRIC.findall(document)) - {group for group, _ in VARIANTS}
    assert len(names) > 20
    for name in names:
        # Two helpers put names together: ``_spread("critic/score", ...)``, ``mask("veto", ...)``.
        prefix = name.rpartition("/")[0]
        ways = (f'"{name}"', f'_spread("{prefix}"', f'mask("{prefix.rpartition("/")[2]}"')
        if prefix in ("preference", "reward"):
            ways += (f'metrics}}/{name.rpartition("/")[2]}"',)  # a stage's objective puts it before
        assert any(way in SOURCE for way in ways), name


def test_every_table_keeps_its_number_of_columns(document):
    width = None
    for line in document.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        columns = len(re.findall(r"(?<!\\)\|", line))
        assert width in (None, columns), line
        width = columns


def test_links_inside_the_document_lead_somewhere(document):
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in document.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", document)) <= headings


@dataclass(kw_only=True)
class OddConfig:
    """Both halves, arXiv 2501.00001; see https://example.org/a.html."""

    needs_moon: ClassVar[bool] = True
    use: ClassVar[str] = "At |night|."
    watch: ClassVar[str] = "The sky."

    kind: str = "odd"
    tilt: float | None = option(None, help="a|b")


def odd() -> None:
    """-|A| in ``x``, of 0.5. More about it."""


def test_a_new_variant_needs_no_change_here_but_a_new_trait_does(monkeypatch):
    entry = Entry(name="odd", target=odd, config=OddConfig)
    with pytest.raises(KeyError, match="needs_moon"):
        table.describe("loss", entry)
    monkeypatch.setitem(table.NEEDS, "needs_moon", "a moon")
    variant = table.describe("loss", entry)
    assert variant.typed == "`loss=odd`"
    assert variant.formula == r"-\|A\| in `x`, of 0.5"
    assert variant.needs == "a moon" and variant.use == r"At \|night\|."
    assert variant.source == (
        "Both halves, [arXiv 2501.00001](https://arxiv.org/abs/2501.00001); "
        "see [example.org/a.html](https://example.org/a.html)."
    )
    assert variant.options == [
        table.Option(path="loss.tilt", default="null", meaning=r"a\|b"),
    ]
