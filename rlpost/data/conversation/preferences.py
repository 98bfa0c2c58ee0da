"""Encodes pairs and judged completions, each completion as fine-tuning encodes it.

Owns what the two sides of a pair must have in common and in what they must differ, and the labels.
Refuses to own tokens and masks (encoder.py). Invariants: both sides of a pair begin with the same
tokens up to the first that either trains; every side has an answer of its own.

L: labels of one example.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.identity import encoder_identity
from rlpost.data.conversation.marks import TrainOn
from rlpost.data.example import Example
from rlpost.data.records import Completion, Content, Judged, Pair, Record
from rlpost.data.rows import listed
from rlpost.data.template import ChatTokenizer
from rlpost.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)  # labels are float32
_VERSION = 1  # changes whenever the same record would get other tokens, another mask or label


class PairEncoder:
    """Turns a pair into two examples, the chosen one first.

    Args:
        tokenizer: a transformers tokenizer.
        truncate_to: a side with more tokens loses the answers that end behind this bound; None:
            sides may have any length.
        refuse_above: a side that is sure to have more tokens is refused before it is tokenized;
            None: none is.
        stop_ids: tokens at which generation stops; see ``ConversationEncoder``.
        margin_column: the column that says by how much the chosen side is better, which becomes
            its label; None: pairs have no labels.

    Raises:
        UserError: there is no token at which generation stops.
    """

    accepts: ClassVar[tuple[type[Record], ...]] = (Pair,)

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        truncate_to: int | None = None,
        refuse_above: int | None = None,
        stop_ids: Sequence[int] = (),
        margin_column: str | None = None,
    ) -> None:
        self._sides = _CompletionEncoder(
            tokenizer, truncate_to=truncate_to, refuse_above=refuse_above, stop_ids=stop_ids
        )
        self._margin_column = margin_column
        self.fingerprint = encoder_identity(
            tokenizer, sides=self._sides.fingerprint, version=_VERSION, margin=margin_column
        )

    def encode(self, record: Record) -> list[Example]:
        """Return the chosen and the rejected example, which begin with the same prompt.

        Raises:
            DataError: a side cannot be encoded, both are the same, the prompt is another in each,
                or there is no margin where one is wanted.
        """
        assert isinstance(record, Pair), type(record)
        chosen = self._sides.encode(record, record.chosen, side="chosen")
        rejected = self._sides.encode(record, record.rejected, side="rejected")
        _require_different(chosen, rejected)
        _require_same_prompt(chosen, rejected)
        if self._margin_column is not None:
            margin = _margin(record, self._margin_column)
            chosen = replace(chosen, labels=np.array([margin], np.float32))
        return [chosen, rejected]


class JudgedEncoder:
    """Turns a judged completion into an example with the label 1 (good) or 0 (bad).

    A pair becomes two: its chosen side is good, its rejected one bad. Arguments are those of
    ``PairEncoder``.

    Raises:
        UserError: there is no token at which generation stops.
    """

    accepts: ClassVar[tuple[type[Record], ...]] = (Judged, Pair)

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        truncate_to: int | None = None,
        refuse_above: int | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        options = {
            "truncate_to": truncate_to,
            "refuse_above": refuse_above,
            "stop_ids": stop_ids,
        }
        self._sides = _CompletionEncoder(tokenizer, **options)  # type: ignore[arg-type]
        self._pairs = PairEncoder(tokenizer, **options)  # type: ignore[arg-type]
        self.fingerprint = encoder_identity(
            tokenizer, sides=self._sides.fingerprint, version=_VERSION, judged=True
        )

    def encode(self, record: Record) -> list[Example]:
        """Return the example of a judged completion, or both of a pair.

        Raises:
            DataError: a completion cannot be encoded; see ``PairEncoder.encode``.
        """
        if isinstance(record, Pair):
            good, bad = self._pairs.encode(record)
            return [_judged(good, True), _judged(bad, False)]
        assert isinstance(record, Judged), type(record)
        return [_judged(self._sides.encode(record, record.completion), record.label)]


class _CompletionEncoder:
    """Encodes one completion of a prompt to one example with all its answers trained."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        truncate_to: int | None,
        refuse_above: int | None,
        stop_ids: Sequence[int],
    ) -> None:
        self._encoder = ConversationEncoder(
            tokenizer,
            train_on=TrainOn.assistant,
            truncate_to=truncate_to,
            refuse_above=refuse_above,
            stop_ids=stop_ids,
        )
        self.fingerprint = self._encoder.fingerprint

    def encode(self, record: Pair | Judged, completion: Content, *, side: str = "") -> Example:
        """Raises DataError: it cannot be encoded, or not as one sequence; names the side."""
        address = f"{record.address}: {side}" if side else record.address
        found = self._encoder.encode(
            Completion(
                prompt=record.prompt,
                completion=completion,
                tools=getattr(record, "tools", ()),
                address=address,
            )
        )
        if len(found) > 1:
            raise DataError(
                f"{address}: the chat template writes its answers to {len(found)} sequences, "
                "because it shows a past answer in another way than the model writes it, and a "
                "completion is judged as one; keep the first answer alone"
            )
        return replace(found[0], address=record.address)


def shared_prompt(pair: Sequence[Example]) -> int:
    """Return how many tokens the examples of a row begin with before either trains one."""
    return min(int(np.argmax(each.trained)) for each in pair)


def _require_different(chosen: Example, rejected: Example) -> None:
    if np.array_equal(chosen.ids, rejected.ids):
        raise DataError(
            f"{chosen.address}: chosen and rejected have the same tokens, so neither is better; "
            "leave the row out, or allow more tokens if both were cut (data.max_tokens)"
        )


def _require_same_prompt(chosen: Example, rejected: Example) -> None:
    start = shared_prompt([chosen, rejected])
    if not np.array_equal(chosen.ids[:start], rejected.ids[:start]):
        raise DataError(
            f"{chosen.address}: the tokens before the first trained one are not the same in chosen "
            "and rejected, so they are no two answers to one prompt; let both sides begin with an "
            "answer that is trained, or use a model whose chat template renders the prompt alike"
        )


def _margin(record: Pair, column: str) -> float:
    if column not in record.columns:
        raise DataError(
            f"{record.address}: no column {column!r} beside prompt, chosen and rejected, which "
            f"loss.margin_column names; these are there: {listed(record.columns)}"
        )
    value = record.columns[column]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and abs(value) <= _LARGEST):
        raise DataError(
            f"{record.address}: column {column!r}, the margin, must be a finite number in float32, "
            f"got {value!r:.80}; correct it, or leave the row out"
        )
    return float(value)


def _judged(example: Example, good: bool) -> Example:
    return replace(example, labels=np.array([good], np.float32))


def judgements_of_pair(pair: Sequence[Example]) -> list[str]:
    """Return what is said of each side. Example: ``["chosen, margin 0.5", "rejected"]``."""
    margin = "".join(f", margin {value:g}" for value in pair[0].labels)
    return [f"chosen{margin}", "rejected"]


def judgements_of_judged(examples: Sequence[Example]) -> list[str]:
    """Return ``good`` or ``bad`` for each example."""
    return ["good" if each.labels[0] > 0 else "bad" for each in examples]
