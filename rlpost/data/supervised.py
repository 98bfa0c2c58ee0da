"""The data of a stage that learns from a data set: its options, and what is made of them.

Owns the ``data.*`` options of these stages, the shares of several sources and what is held out.
Refuses to own encoding (corpus/), order (mixture.py) and tokens (the encoder that a stage gives).
Invariants: no row is both trained on and held out by the same rule; every refusal names the option.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from rlpost.bounds import check_config, number, option
from rlpost.data.corpus.corpus import Corpus, CorpusRules, OnLong, load_corpus
from rlpost.data.dataset import DEFAULT_SIZE, OnBadRow
from rlpost.data.example import ExampleEncoder
from rlpost.data.formats.reader import RecordReader
from rlpost.data.mixture import Mixture, Share
from rlpost.data.rows import Split
from rlpost.data.sources.load import find_rows, find_source, short_name
from rlpost.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(kw_only=True)
class SourceConfig:
    """One source of a mixture; its name is the key in ``data.sources``."""

    path: str = option("", help="rows: a file, a directory, a hub id or a generated source")
    weight: float | None = number(
        None, at_least=0, at_most=10**9, help="share of all draws, relative to the other sources"
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
    """Where examples come from: one source (``train``), or several with shares (``sources``)."""

    train: str | None = option(
        None, help="rows to train on: a file, a directory, a hub id or a generated source"
    )
    sources: dict[str, SourceConfig] = option(
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
    heldout: str | None = option(
        None, help="rows of the evaluation; null: rows that a generated source holds out, else none"
    )
    heldout_fraction: float = number(
        0.0, at_least=0, below=1, help="part of each source that is held out instead, by row hash"
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
        if self.sources and (self.size or self.format or self.columns) and self.heldout is None:
            raise UserError(
                f"{path}.size, {path}.format and {path}.columns belong to {path}.train; set them "
                f"for a source with {path}.sources.NAME"
            )
        for name, source in self._named(path).items():
            _check_source(source, option=self._option(name, path), generated_only=f"{path}.size")
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
        for name, source in self._named(path).items():
            if _same_file(source.path, self.heldout):
                raise UserError(
                    f"{path}.heldout and {self._option(name, path)} are the same file "
                    f"{self.heldout!r}, so the score would measure memory; split the file, or "
                    f"set {path}.heldout_fraction=0.05 instead"
                )

    def _named(self, path: str) -> dict[str, SourceConfig]:
        """Return every source by its name; ``train`` is one, called after its file."""
        if self.train is None:
            return self.sources
        source = SourceConfig(
            path=self.train, size=self.size, format=self.format, columns=self.columns
        )
        find_source(self.train, field=f"{path}.train")
        return {short_name(self.train): source}

    def _option(self, name: str, path: str) -> str:
        return f"{path}.train" if self.train is not None else f"{path}.sources.{name}.path"


def _check_source(source: SourceConfig, *, option: str, generated_only: str) -> None:
    found, _ = find_source(source.path, field=option)
    if source.size is not None and not found.generated:
        where = option.replace(".path", ".size") if option.endswith(".path") else generated_only
        raise UserError(
            f"{where}={source.size} applies to generated sources (arithmetic, "
            f"reasoning_gym:TASK), but {option} is {source.path!r}; remove {where}"
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


def _same_file(a: str, b: str) -> bool:
    return os.path.isfile(a) and _real(a) == _real(b)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What a stage trains on, and what it evaluates on by the name of its source."""

    train: Mixture
    heldout: Mapping[str, Corpus] = field(default_factory=dict)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Address and reason of every row that was left out."""
        corpora = {
            each.key: each for each in (*self.train.corpora.values(), *self.heldout.values())
        }
        return tuple(reason for corpus in corpora.values() for reason in corpus.skipped)


def load_splits(
    cfg: SupervisedDataConfig,
    *,
    encoder: ExampleEncoder,
    seed: int,
    max_tokens: int | None = None,
    path: str = "data",
) -> Splits:
    """Read, encode and check all sources, or take them from the cache.

    Args:
        cfg: the settings.
        encoder: makes examples of records.
        seed: of generated training rows and of the order; held-out rows do not depend on it.
        max_tokens: the caller's bound of an example, such as the model's context; the smaller of
            it and ``cfg.max_tokens`` applies. None: no bound.
        path: where the options are, for errors.

    Raises:
        UserError: a setting is wrong or a source does not exist.
        DataError: a row is bad or too long (unless skipped), or no row is left.
        InfrastructureError: a process that encodes died.
    """
    check_config(cfg, path)
    loader = _Loader(cfg=cfg, encoder=encoder, seed=seed, max_tokens=max_tokens, path=path)
    sources = {n: s for n, s in cfg._named(path).items() if s.weight != 0}
    train: dict[str, Corpus] = {}
    heldout: dict[str, Corpus] = {}
    for name, source in sources.items():
        option = cfg._option(name, path)
        corpus = loader.corpus(name, source, Split.TRAIN, option=option)
        if cfg.heldout_fraction:
            corpus, held = corpus.split(cfg.heldout_fraction)
            _require_both(corpus, held, cfg, path=path)
            heldout[name] = held.first(cfg.heldout_size)
        elif cfg.heldout is None and find_source(source.path, field=path)[0].generated:
            held = loader.corpus(name, source, Split.HELDOUT, option=option)
            heldout[name] = held.first(cfg.heldout_size)
        train[name] = corpus
    if cfg.heldout is not None:
        source = SourceConfig(path=cfg.heldout, format=cfg.format, columns=cfg.columns)
        held = loader.corpus(
            short_name(cfg.heldout), source, Split.HELDOUT, option=f"{path}.heldout"
        )
        for name, corpus in train.items():
            if held.key == corpus.key:
                raise UserError(
                    f"{path}.heldout={cfg.heldout} has the same rows as the source {name}, so the "
                    f"score would measure memory; set {path}.heldout_fraction=0.05 instead"
                )
        heldout[held.name] = held.first(cfg.heldout_size)
    return Splits(train=_mixture(train, sources, cfg, seed=seed), heldout=heldout)


def _require_both(train: Corpus, held: Corpus, cfg: SupervisedDataConfig, *, path: str) -> None:
    for part, what in ((train, "leaves no row to train on"), (held, "holds out no row")):
        if not len(part):
            raise UserError(
                f"{path}.heldout_fraction={cfg.heldout_fraction} {what} of the source "
                f"{part.name}, which has {len(train) + len(held)} rows; change it, or name a file "
                f"with {path}.heldout"
            )


def _mixture(
    corpora: Mapping[str, Corpus],
    sources: Mapping[str, SourceConfig],
    cfg: SupervisedDataConfig,
    *,
    seed: int,
) -> Mixture:
    """Weights: an epoch has as many draws as there are rows. Fractions: they say how many."""
    rows = {name: len(corpus) for name, corpus in corpora.items()}
    for name, source in sources.items():
        if source.fraction is not None:
            rows[name] = max(1, round(source.fraction * rows[name]))
    weights = {
        name: Fraction(rows[name] if source.weight is None else source.weight)
        for name, source in sources.items()
    }
    shares = [Share(corpus=corpora[name], weight=weights[name]) for name in corpora]
    return Mixture(shares, rows_per_epoch=sum(rows.values()), seed=seed, shuffle=cfg.shuffle)


@dataclass(frozen=True, kw_only=True)
class _Loader:
    cfg: SupervisedDataConfig
    encoder: ExampleEncoder
    seed: int
    max_tokens: int | None
    path: str

    def corpus(self, name: str, source: SourceConfig, split: Split, *, option: str) -> Corpus:
        train = split is Split.TRAIN
        stored = find_rows(
            source.path,
            split=split,
            size=(source.size or DEFAULT_SIZE) if train else self.cfg.heldout_size,
            seed=self.seed,
            field=option,
        )
        reader = RecordReader(
            accepts=self.encoder.accepts,
            format=source.format,
            columns=source.columns,
            option=option.removesuffix(".path") if option.endswith(".path") else self.path,
        )
        limits = [n for n in (self.cfg.max_tokens, self.max_tokens) if n is not None]
        return load_corpus(
            stored,
            name=name,
            reader=reader,
            encoder=self.encoder,
            rules=CorpusRules(
                on_bad_row=self.cfg.on_bad_row,
                max_tokens=min(limits, default=None),
                on_long=self.cfg.on_long,
                option=self.path,
            ),
            workers=self.cfg.workers,
        )
