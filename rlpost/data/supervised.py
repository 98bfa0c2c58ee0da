"""The ``data.*`` options of a stage that learns from a data set.

Owns these and the rules between them. Refuses to own what is made of them (splits.py). Invariant:
no data is read here, and every refusal names the option.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.bounds import number, option
from rlpost.data import template_variables
from rlpost.data.bad_rows import OnBadRow, OnLong
from rlpost.data.sources.load import find_source, same_file, short_name
from rlpost.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(kw_only=True)
class SourceConfig:
    """One source of a mixture; its name is the key in ``data.sources``."""

    path: str = option("", help="rows: a file, a directory, a hub id or a generated source")
    weight: float | None = number(
        None,
        at_least=0,
        at_most=10**9,
        help="share of all draws, relative to the other sources; 0: held-out rows alone are used",
    )
    fraction: float | None = number(
        None, above=0, at_most=1000, help="share of its rows drawn in an epoch; 2: each row twice"
    )
    size: int | None = number(
        None, at_least=1, at_most=10**7, help="rows of a generated source; null: 1000"
    )
    format: str | None = option(None, help="format of its rows; null: the columns tell")
    columns: dict[str, str] = option({}, help="its columns by the names that the format has")


@dataclass(kw_only=True)
class SupervisedDataConfig:
    """Where examples come from: one source (``train``), or several with shares (``sources``).

    ``sources`` holds a ``SourceConfig`` by the name of each source.
    """

    train: str | None = option(
        None, help="rows to train on: a file, a directory, a hub id or a generated source"
    )
    sources: dict[str, Any] = option(
        {}, help="several sources by names of your choice, in place of data.train"
    )
    size: int | None = number(
        None, at_least=1, at_most=10**7, help="rows of a generated data.train; null: 1000"
    )
    format: str | None = option(
        None, help="format of data.train and data.heldout; null: the columns tell"
    )
    columns: dict[str, str] = option(
        {}, help="columns of data.train and data.heldout by the names that the format has"
    )
    chat_template_kwargs: dict[str, Any] = option({}, help=template_variables.HELP)
    heldout: str | None = option(
        None, help="rows of the evaluation; null: rows that a generated source holds out, else none"
    )
    heldout_fraction: float = number(
        0.0,
        at_least=0,
        below=1,
        help="part of each source that is held out instead, by hash of the prompt",
    )
    heldout_size: int = number(
        200, at_least=1, at_most=10**9, help="at most this many held-out rows of a source"
    )
    on_bad_row: OnBadRow = option(OnBadRow.error, help="what to do with a row that cannot be used")
    max_tokens: int | None = number(
        None, at_least=2, at_most=10**8, help="longest example; null: the model's context"
    )
    on_long: OnLong = option(OnLong.error, help="what to do with a longer example")
    shuffle: bool = option(True, help="draw the rows of a source in random order")
    workers: int | None = number(
        None,
        at_least=0,
        at_most=1024,
        help="processes that encode; null: one a processor; 0: none",
    )

    def check(self, path: str) -> None:
        """Refuse impossible settings; reads no data.

        Raises:
            UserError: names the field, its value and the way out.
        """
        if (self.train is None) == (not self.sources):
            both = "both are" if self.sources else "neither is"
            raise UserError(
                f"{path}.train and {path}.sources name the rows to train on, and {both} given; "
                f"give one source with {path}.train=FILE, or several with "
                f"{path}.sources.NAME.path=FILE"
            )
        unused = [self.size] if self.heldout else [self.size, self.format, self.columns]
        if self.sources and any(unused):
            raise UserError(
                f"{path}.size belongs to {path}.train, and {path}.format and {path}.columns to it "
                f"and {path}.heldout; set them for a source with {path}.sources.NAME"
            )
        for name, source in self.named_sources(path).items():
            _check_source(source, place=self.option_of(name, path), size=f"{path}.size")
        if self.sources:
            _check_shares(self.sources, f"{path}.sources")
        self._check_heldout(path)

    def _check_heldout(self, path: str) -> None:
        if self.heldout is None:
            return
        if self.heldout_fraction:
            raise UserError(
                f"{path}.heldout={self.heldout} and {path}.heldout_fraction="
                f"{self.heldout_fraction} both say what is held out; remove one of them"
            )
        find_source(self.heldout, field=f"{path}.heldout")
        for name, source in self.named_sources(path).items():
            if same_file(source.path, self.heldout, field=path):
                raise UserError(
                    f"{path}.heldout and {self.option_of(name, path)} are the same file "
                    f"{self.heldout!r}, so the score would measure memory; split the file, or "
                    f"set {path}.heldout_fraction=0.05 instead"
                )

    def named_sources(self, path: str) -> dict[str, SourceConfig]:
        """Return every source by its name; ``train`` is one, called after its file."""
        if self.train is None:
            return self.sources
        source = SourceConfig(
            path=self.train, size=self.size, format=self.format, columns=self.columns
        )
        find_source(self.train, field=f"{path}.train")
        return {short_name(self.train): source}

    def option_of(self, name: str, path: str) -> str:
        """Return the option that says where the rows of a source are."""
        return f"{path}.train" if self.train is not None else f"{path}.sources.{name}.path"


def _check_source(source: SourceConfig, *, place: str, size: str) -> None:
    found, _ = find_source(source.path, field=place)
    if source.size is not None and not found.generated:
        where = f"{place.removesuffix('.path')}.size" if place.endswith(".path") else size
        raise UserError(
            f"{where}={source.size} applies to generated sources (arithmetic, "
            f"reasoning_gym:TASK), but {place} is {source.path!r}; remove {where}"
        )


def _check_shares(sources: Mapping[str, SourceConfig], path: str) -> None:
    seen: dict[str, str] = {}
    for name, source in sources.items():
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{path}.{name!a:.80}: the name of a source must be letters, digits, '_', '-' and "
                "'.', because metrics and samples show it"
            )
        real = _real(source.path)
        if real in seen:
            raise UserError(
                f"{path}.{name}.path and {path}.{seen[real]}.path are the same, {source.path!r}; "
                "remove one, and give the other the weight of both"
            )
        seen[real] = name
        folded = [other for other in sources if other != name and other.lower() == name.lower()]
        if folded:
            raise UserError(
                f"{path}.{name} and {path}.{folded[0]} differ in capital letters only; rename one"
            )
    for kind in ("weight", "fraction"):
        without = [name for name, source in sources.items() if getattr(source, kind) is None]
        if without and len(without) < len(sources):
            raise UserError(
                f"{path}.{without[0]}.{kind} is not given, but other sources have one; give every "
                f"source a {kind}, or none"
            )
    first = next(iter(sources.values()))
    if first.weight is not None and first.fraction is not None:
        raise UserError(
            f"{path}: sources have both weight and fraction, which say the same in two ways; give "
            "one of them"
        )
    if first.weight is not None and not any(source.weight for source in sources.values()):
        raise UserError(
            f"{path}: the weights of all sources sum to 0, so none would be drawn; give one a "
            f"weight above 0, such as {path}.{next(iter(sources))}.weight=1"
        )


def _real(name: str) -> str:
    return os.path.realpath(os.path.expanduser(name)) if os.path.exists(name) else name
