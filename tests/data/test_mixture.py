"""Laws of a mixture: exact shares, every row once an epoch, and resumption at any place."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from byte_encoder import ByteEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpost.data.corpus.corpus import Corpus, CorpusRules, load_corpus
from rlpost.data.formats.reader import RecordReader
from rlpost.data.mixture import Mixture, Share
from rlpost.data.sources.load import find_rows
from rlpost.errors import UserError

SIZES = {"a": 7, "b": 3, "c": 20}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    folder = tmp_path_factory.mktemp("mixture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLPOST_CACHE", str(folder / "cache"))
        return {name: corpus(folder, name, size) for name, size in SIZES.items()}


def corpus(folder: Path, name: str, size: int, *, text: str = "row") -> Corpus:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text} {name}{i}"}) + "\n" for i in range(size)))
    encoder = ByteEncoder()
    return load_corpus(
        find_rows(str(path)),
        name=name,
        reader=RecordReader(accepts=encoder.accepts),
        encoder=encoder,
        rules=CorpusRules(),
    )


def mixture(
    corpora: dict[str, Corpus], weights: dict[str, Any] | None = None, **options: Any
) -> Mixture:
    weights = weights or SIZES
    shares = [Share(corpus=corpora[name], weight=Fraction(w)) for name, w in weights.items()]
    return Mixture(shares, **{"rows_per_epoch": 30, "seed": 0, **options})


def uids(mixture: Mixture, n: int) -> list[str]:
    return [example.uid for example in mixture.take(n)]


def by_source(drawn: list[str]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for uid in drawn:
        name, epoch, row = uid.split(":")
        found.setdefault(name, []).append((int(epoch), int(row)))
    return found


positive = st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000)


@settings(max_examples=60)
@given(weights=st.tuples(positive, positive, positive))
def test_every_prefix_has_its_shares_within_one_draw(
    corpora: dict[str, Corpus], weights: tuple[Fraction, ...]
) -> None:
    drawn = uids(mixture(corpora, dict(zip(SIZES, weights, strict=True))), 300)
    counts = Counter(dict.fromkeys(SIZES, 0))
    for k, uid in enumerate(drawn, start=1):
        counts[uid.split(":")[0]] += 1
        for name, weight in zip(SIZES, weights, strict=True):
            assert abs(counts[name] - k * weight / sum(weights)) < 1


def test_drawing_by_chance_would_not_keep_the_shares(corpora: dict[str, Corpus]) -> None:
    """Negative control: the law above distinguishes the rule from sampling."""
    import random

    drawn = random.Random(0).choices(list(SIZES), weights=[1, 1, 1], k=300)
    worst = max(abs(Counter(drawn[:k])["a"] - k / 3) for k in range(1, 301))
    assert worst > 1


@settings(max_examples=30)
@given(weights=st.tuples(positive, positive, positive), seed=st.integers(0, 2**31 - 1))
def test_every_row_once_in_each_epoch_of_its_source(
    corpora: dict[str, Corpus], weights: tuple[Fraction, ...], seed: int
) -> None:
    mixed = mixture(corpora, dict(zip(SIZES, weights, strict=True)), seed=seed)
    for name, drawn in by_source(uids(mixed, 200)).items():
        assert [epoch for epoch, _ in drawn] == [i // SIZES[name] for i in range(len(drawn))]
        for start in range(0, len(drawn), SIZES[name]):
            rows = [row for _, row in drawn[start : start + SIZES[name]]]
            assert len(set(rows)) == len(rows)


@settings(max_examples=60)
@given(parts=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 5))
def test_split_and_resumed_equals_uninterrupted(
    corpora: dict[str, Corpus], parts: list[int], seed: int
) -> None:
    whole = uids(mixture(corpora, seed=seed), sum(parts))
    state, found = None, []
    for part in parts:
        resumed = mixture(corpora, seed=seed)
        if state is not None:
            resumed.load_state_dict(json.loads(json.dumps(state, sort_keys=True)))
        found += uids(resumed, part)
        state = resumed.state_dict()
    assert found == whole


def test_an_epoch_of_all_rows_draws_each_row_once(corpora: dict[str, Corpus]) -> None:
    mixed = mixture(corpora)
    first, second = uids(mixed, 30), uids(mixed, 30)
    assert sorted(first) == sorted(f"{n}:0:{r}" for n, size in SIZES.items() for r in range(size))
    assert [u.replace(":0:", ":1:") for u in first] != second  # another order
    assert mixed.epoch == 2.0
    assert mixed.steps(epochs=3, rows_per_step=16) == 6  # ceil(90 / 16)


def test_examples_are_those_of_their_row(corpora: dict[str, Corpus]) -> None:
    for example in mixture(corpora).take(40):
        name, _, row = example.uid.split(":")
        assert bytes(example.ids.tolist()).decode() == f"row {name}{row}"
        assert example.address.endswith(f"{name}.jsonl:{int(row) + 1}")


def test_order_depends_on_the_seed_and_on_nothing_else(corpora: dict[str, Corpus]) -> None:
    assert uids(mixture(corpora), 90) == uids(mixture(corpora), 90)
    assert uids(mixture(corpora), 90) != uids(mixture(corpora, seed=1), 90)
    turned = dict(reversed(SIZES.items()))
    assert uids(mixture(corpora, turned), 90) == uids(mixture(corpora), 90)
    plain = by_source(uids(mixture(corpora, shuffle=False), 30))
    assert plain == {name: [(0, row) for row in range(size)] for name, size in SIZES.items()}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"seed": 1}, "seed is 1, the checkpoint was made with 0"),
        ({"shuffle": False}, r"data\.shuffle is False"),
        ({"weights": {"a": 1, "b": 3, "c": 20}}, "the data source a has the weight 1"),
        ({"weights": {"a": 7, "b": 3}}, "the sources of data are a, b, .* with a, b, c"),
    ],
)
def test_a_state_of_other_settings_is_refused(
    corpora: dict[str, Corpus], change: dict[str, Any], rule: str
) -> None:
    state = mixture(corpora).state_dict()
    with pytest.raises(UserError, match=rule) as caught:
        mixture(corpora, **change).load_state_dict(state)
    assert "resume=never" in str(caught.value)


def test_a_state_of_other_data_is_refused(
    corpora: dict[str, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLPOST_CACHE", str(tmp_path))
    other = {**corpora, "b": corpus(tmp_path, "b", SIZES["b"], text="new")}
    with pytest.raises(UserError, match="the data source b has changed since the checkpoint"):
        mixture(other).load_state_dict(mixture(corpora).state_dict())


def test_looking_ahead_names_the_rows_that_will_be_drawn(corpora: dict[str, Corpus]) -> None:
    for draws in (1, 7, 40):
        ours, twin = (mixture(corpora, {"a": 3, "b": 1}) for _ in range(2))
        ours.take(5)
        ahead = [row[0].uid for row in ours.ahead(draws)]
        assert len(set(ahead)) == len(ahead)
        drawn = {uid.split(":")[0] + uid.split(":")[2] for uid in uids(twin, draws)}
        assert {uid.split(":")[0] + uid.split(":")[2] for uid in ahead} == drawn
