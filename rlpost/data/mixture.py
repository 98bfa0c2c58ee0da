"""Several corpora drawn together in fixed shares, in a reproducible order.

Owns which source each draw comes from, and the order of a source's rows in each of its epochs.
Refuses to own tokens and rows (corpus/). Invariants: the number of draws from a source never
differs by a whole one from its share of all draws; every row of a source is drawn once in each of
the source's epochs; the sequence is a function of (corpora, shares, seed) alone; an example's uid
names its source.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from rlpost.data.corpus.corpus import Corpus
from rlpost.data.cursor import shuffled
from rlpost.data.example import Example
from rlpost.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Share:
    """One source of a mixture.

    Attributes:
        corpus: the rows.
        weight: the source's part of all draws, relative to the sum of the weights.
    """

    corpus: Corpus
    weight: Fraction


class Mixture:
    """Draws rows from several corpora.

    One epoch of the mixture is ``rows_per_epoch`` draws; a source that has fewer rows than it
    gives to an epoch begins again, and one that has more goes on in the next.

    Args:
        shares: the corpora, each with a name of its own and a weight above 0.
        rows_per_epoch: draws of one epoch.
        seed: seed of the order within each source.
        shuffle: a new permutation in each epoch of a source; else rows in their stored order.

    Example::

        examples = mixture.take(16)  # of 16 rows
        saved = mixture.state_dict()
    """

    def __init__(
        self, shares: Sequence[Share], *, rows_per_epoch: int, seed: int, shuffle: bool = True
    ) -> None:
        assert shares and rows_per_epoch > 0
        shares = sorted(shares, key=lambda each: each.corpus.name)
        self.corpora: Mapping[str, Corpus] = {each.corpus.name: each.corpus for each in shares}
        assert len(self.corpora) == len(shares) and all(map(len, self.corpora.values()))
        self.rows_per_epoch = rows_per_epoch
        self._chooser = _Chooser([each.weight for each in shares])
        self._orders = [
            _Order(len(each.corpus), key=f"{seed}:{each.corpus.name}", shuffle=shuffle)
            for each in shares
        ]
        self._settings = {"seed": seed, "shuffle": shuffle}
        self._sources = {
            each.corpus.name: {
                "fingerprint": each.corpus.fingerprint,
                "weight": str(each.weight),
            }
            for each in shares
        }

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Identity of the tokens of each source."""
        return {name: corpus.fingerprint for name, corpus in self.corpora.items()}

    @property
    def weights(self) -> Mapping[str, Fraction]:
        """Each source's part of all draws, relative to the sum."""
        return dict(zip(self.corpora, self._chooser.weights, strict=True))

    @property
    def epoch(self) -> float:
        """Epochs drawn so far, such as 1.25."""
        return sum(self._chooser.counts) / self.rows_per_epoch

    def steps(self, *, epochs: float, rows_per_step: int) -> int:
        """Return the optimizer steps in which so many epochs are drawn, the last one maybe more."""
        return math.ceil(epochs * self.rows_per_epoch / rows_per_step)

    def take(self, num_rows: int) -> list[Example]:
        """Return the examples of the next rows, those of one row together and with one uid."""
        corpora = list(self.corpora.values())
        taken: list[Example] = []
        for _ in range(num_rows):
            source, drawn = self._chooser.next()
            epoch, row = self._orders[source].at(drawn)
            uid = f"{corpora[source].name}:{epoch}:{row}"
            taken += corpora[source].examples(row, uid=uid)
        return taken

    def ahead(self, num_rows: int) -> Iterator[list[Example]]:
        """Yield the rows among the first draws of all, each once, without drawing them.

        Each is the list of its examples, whose uid is that of its first draw.
        """
        chooser, corpora = _Chooser(self._chooser.weights), list(self.corpora.values())
        orders = [copy.copy(order) for order in self._orders]
        for _ in range(num_rows):
            source, drawn = chooser.next()
            if drawn < len(corpora[source]):
                _, row = orders[source].at(drawn)
                uid = f"{corpora[source].name}:0:{row}"
                yield corpora[source].examples(row, uid=uid)

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the identity of the data, as JSON data."""
        return {
            "drawn": dict(zip(self.corpora, self._chooser.counts, strict=True)),
            "sources": self._sources,
            **self._settings,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the rows that were drawn when ``state`` was saved.

        Raises:
            UserError: the state belongs to other data, shares, order or seed.
        """
        for key, ours in self._settings.items():
            if state[key] != ours:
                field = {"seed": "seed", "shuffle": "data.shuffle"}[key]
                raise _other(f"{field} is {ours}, the checkpoint was made with {state[key]}")
        theirs = state["sources"]
        if list(self._sources) != sorted(theirs):
            raise _other(
                f"the sources of data are {', '.join(self._sources)}, the checkpoint was made with "
                f"{', '.join(sorted(theirs))}"
            )
        for name, source in self._sources.items():
            if source["fingerprint"] != theirs[name]["fingerprint"]:
                raise _other(
                    f"the data source {name} has changed since the checkpoint: its content, the "
                    "rows that are used, the tokenizer or the encoding"
                )
            if source["weight"] != theirs[name]["weight"]:
                raise _other(
                    f"the data source {name} has the weight {source['weight']}, the checkpoint "
                    f"was made with {theirs[name]['weight']}"
                )
        self._chooser.counts = [state["drawn"][name] for name in self.corpora]


def _other(how: str) -> UserError:
    return UserError(
        f"{how}; resume with the settings and data of the first run, or start anew with "
        "resume=never"
    )


class _Order:
    """The order of a source's rows over its epochs; the permutation of one epoch is kept."""

    def __init__(self, num_rows: int, *, key: str, shuffle: bool) -> None:
        self._num_rows = num_rows
        self._key = key
        self._shuffle = shuffle
        self._epoch = -1
        self._rows: npt.NDArray[np.int64] = np.arange(num_rows)

    def at(self, drawn: int) -> tuple[int, int]:
        """Return ``(epoch, row)`` of the draw after ``drawn`` others from this source."""
        epoch, offset = divmod(drawn, self._num_rows)
        if self._shuffle and epoch != self._epoch:
            self._rows = shuffled(self._num_rows, key=f"{self._key}:{epoch}")
            self._epoch = epoch
        return epoch, int(self._rows[offset])


class _Chooser:
    """Chooses the source of each draw; ``counts`` are the draws from each source so far.

    Tijdeman's rule (The chairman assignment problem, Discrete Mathematics 32, 1980): among the n
    sources whose share w*k of the first k draws exceeds their count by at least 1/(2n - 2), the one
    is drawn that would be late first. Every count then stays within 1 - 1/(2n - 2) of its share.
    All is computed in integers, so that the order does not depend on rounding.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        assert all(weight > 0 for weight in weights), weights
        self.weights = tuple(weights)
        common = math.lcm(*(weight.denominator for weight in weights))
        whole = [int(weight * common) for weight in weights]
        self._weights = [weight // math.gcd(*whole) for weight in whole]
        self._total = sum(self._weights)
        self.counts = [0] * len(weights)

    def next(self) -> tuple[int, int]:
        """Return a source and how many draws came from it before, and count this one."""
        source = self._choice(sum(self.counts) + 1)
        self.counts[source] += 1
        return source, self.counts[source] - 1

    def _choice(self, draw: int) -> int:
        n = len(self.counts)
        if n == 1:
            return 0
        best: tuple[Fraction, int] | None = None
        for source, (weight, count) in enumerate(zip(self._weights, self.counts, strict=True)):
            lag = weight * draw - count * self._total  # in draws, times the total
            if (2 * n - 2) * lag >= self._total:
                due = Fraction((2 * n - 2) * count + 2 * n - 3, weight)
                best = min(best or (due, source), (due, source))
        assert best is not None
        return best[1]
