"""What a stage trains on and what it evaluates on, made of its ``data.*`` options.

Owns the shares of several sources and what is held out. Refuses to own the options (supervised.py),
encoding (corpus/), order (mixture.py) and tokens (the encoder that a stage gives). Invariant: no
prompt is both trained on and held out by a fraction of its source, and no source is both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from rlpost.bounds import check_config
from rlpost.data.corpus.corpus import Corpus, CorpusRules, load_corpus
from rlpost.data.dataset import DEFAULT_SIZE
from rlpost.data.example import ExampleEncoder
from rlpost.data.formats.reader import RecordReader
from rlpost.data.mixture import Mixture, Share
from rlpost.data.rows import Split
from rlpost.data.sources.load import find_rows, find_source, short_name
from rlpost.data.supervised import SourceConfig, SupervisedDataConfig
from rlpost.errors import UserError


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

    @property
    def cautions(self) -> tuple[str, ...]:
        """What held-out rows share with the training rows, for a person to know."""
        shared = {
            name: held.num_asked_in(self.train.corpora.values())
            for name, held in self.heldout.items()
        }
        return tuple(
            f"{count} of the {len(self.heldout[name])} held-out rows of {name} have a prompt that "
            "is also trained on, so their score is in part memory"
            for name, count in shared.items()
            if count
        )


def load_splits(
    cfg: SupervisedDataConfig,
    *,
    encoder: ExampleEncoder,
    seed: int,
    max_tokens: int | None = None,
    more_tokens: str = "use a model with a longer context",
    path: str = "data",
) -> Splits:
    """Read, encode and check all sources, or take them from the cache.

    Args:
        cfg: the settings.
        encoder: makes examples of records.
        seed: of generated training rows and of the order; held-out rows do not depend on it.
        max_tokens: the caller's bound of an example, such as the model's context; the smaller of
            it and ``cfg.max_tokens`` applies. None: no bound.
        more_tokens: how the caller's bound can be raised, for errors.
        path: where the options are, for errors.

    Raises:
        UserError: a setting is wrong or a source does not exist.
        DataError: a row is bad or too long (unless skipped), or no row is left.
        InfrastructureError: a process that encodes died.
    """
    check_config(cfg, path)
    own = cfg.max_tokens is not None and (max_tokens is None or cfg.max_tokens < max_tokens)
    loader = _Loader(
        cfg=cfg,
        encoder=encoder,
        seed=seed,
        max_tokens=cfg.max_tokens if own else max_tokens,
        more_tokens=f"raise {path}.max_tokens" if own else more_tokens,
        path=path,
    )
    sources = cfg.named_sources(path)
    train: dict[str, Corpus] = {}
    heldout: dict[str, Corpus] = {}
    for name, source in sources.items():
        option = cfg.option_of(name, path)
        corpus = loader.corpus(name, source, Split.TRAIN, option=option)
        if cfg.heldout_fraction:
            corpus, held = corpus.split(cfg.heldout_fraction)
            _require_both(corpus, held, cfg, path=path)
            heldout[name] = held.first(cfg.heldout_size)
        elif cfg.heldout is None and find_source(source.path, field=path)[0].generated:
            held = loader.corpus(name, source, Split.HELDOUT, option=option)
            heldout[name] = held.first(cfg.heldout_size)
        if source.weight != 0:
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
        held = held.first(cfg.heldout_size)
        if held.within(train.values()):
            raise UserError(
                f"{path}.heldout={cfg.heldout}: each of its rows is also trained on, so the score "
                f"would measure memory; take them out of the training data, or set "
                f"{path}.heldout_fraction=0.05 instead"
            )
        heldout[held.name] = held
    return Splits(train=_mixture(train, sources, cfg, seed=seed), heldout=heldout)


def _require_both(train: Corpus, held: Corpus, cfg: SupervisedDataConfig, *, path: str) -> None:
    for part, what in ((train, "leaves no row to train on"), (held, "holds out no row")):
        if not len(part):
            raise UserError(
                f"{path}.heldout_fraction={cfg.heldout_fraction} {what} of the source "
                f"{part.name}, which has {len(train) + len(held)} rows, of which those with the "
                f"same prompt stay together; change it, or name a file with {path}.heldout"
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
    for name in corpora:
        if (fraction := sources[name].fraction) is not None:
            rows[name] = max(1, round(fraction * rows[name]))
    given = {name: sources[name].weight for name in corpora}
    weights = {name: Fraction(rows[name] if w is None else w) for name, w in given.items()}
    shares = [Share(corpus=corpora[name], weight=weights[name]) for name in corpora]
    return Mixture(shares, rows_per_epoch=sum(rows.values()), seed=seed, shuffle=cfg.shuffle)


@dataclass(frozen=True, kw_only=True)
class _Loader:
    cfg: SupervisedDataConfig
    encoder: ExampleEncoder
    seed: int
    max_tokens: int | None
    more_tokens: str
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
        return load_corpus(
            stored,
            name=name,
            reader=reader,
            encoder=self.encoder,
            rules=CorpusRules(
                on_bad_row=self.cfg.on_bad_row,
                max_tokens=self.max_tokens,
                on_long=self.cfg.on_long,
                option=self.path,
                more_tokens=self.more_tokens,
            ),
            workers=self.cfg.workers,
        )
