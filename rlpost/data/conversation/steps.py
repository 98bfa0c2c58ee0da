"""Encodes solutions whose steps are judged one by one.

Owns which token ends a step. Refuses to own tokens of the solution (encoder.py). Invariant: every
label has one token of its own, the last one of its step, whatever the tokenizer merges.

T: tokens of the sequence; L: steps.
"""

import bisect
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rlpost.data.conversation.continuation import decoded
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.identity import encoder_identity
from rlpost.data.example import Example
from rlpost.data.records import Completion, Record, Stepwise
from rlpost.data.template import ChatTokenizer
from rlpost.errors import DataError

_VERSION = 1  # changes whenever the same record would get other tokens, another mask or label


class StepwiseEncoder:
    """Turns a solution into one example: the last token of each step is marked and has a label.

    The example ends with its last step, because what follows it is not judged.

    Args:
        tokenizer: a transformers tokenizer.
        truncate_to: steps that end behind this bound are left out; None: any length.
        refuse_above: a solution that is sure to have more tokens is refused before it is tokenized;
            None: none is.
        stop_ids: tokens at which generation stops; see ``ConversationEncoder``.
        separator: text between two steps.

    Raises:
        UserError: there is no token at which generation stops.
    """

    accepts: ClassVar[tuple[type[Record], ...]] = (Stepwise,)

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        truncate_to: int | None = None,
        refuse_above: int | None = None,
        stop_ids: Sequence[int] = (),
        separator: str = "\n",
    ) -> None:
        self._tokenizer = tokenizer
        self._truncate_to = truncate_to
        self._separator = separator
        self._encoder = ConversationEncoder(tokenizer, refuse_above=refuse_above, stop_ids=stop_ids)
        self.fingerprint = encoder_identity(
            tokenizer,
            whole=self._encoder.fingerprint,
            version=_VERSION,
            truncate_to=truncate_to,
            separator=separator,
        )

    def encode(self, record: Record) -> list[Example]:
        """Return the example of a solution; ``labels`` has one value for each marked token.

        Raises:
            DataError: the solution cannot be encoded, two steps end in one token, or no step ends
                within ``truncate_to`` tokens.
        """
        assert isinstance(record, Stepwise), type(record)
        steps = [each.strip() for each in record.completions]
        self._require_apart(steps, address=record.address)
        completion = self._separator.join(steps)
        (whole,) = self._encoder.encode(
            Completion(prompt=record.prompt, completion=completion, address=record.address)
        )
        ends = self._last_tokens(whole, steps, completion)
        if self._truncate_to is not None:
            ends = [end for end in ends if end < self._truncate_to]
        if not ends:
            raise DataError(
                f"{record.address}: not even the first step ends within {self._truncate_to} "
                "tokens; raise what bounds it (data.max_tokens, a micro-batch or the model's "
                "context), shorten the row, or leave it out"
            )
        size = ends[-1] + 1
        trained = np.zeros(size, np.bool_)
        trained[ends] = True
        return [
            Example(
                ids=whole.ids[:size],
                trained=trained,
                labels=np.array(record.labels[: len(ends)], np.float32),
                address=record.address,
            )
        ]

    def _require_apart(self, steps: Sequence[str], *, address: str) -> None:
        """Refuse a step in which the reward role would find several; see step_ends.py."""
        for number, step in enumerate(steps):
            if self._separator and self._separator in step:
                raise DataError(
                    f"{address}: completions[{number}] contains {self._separator!r}, which "
                    "separates steps, so that a sampled response like it would have more steps; "
                    "choose another data.step_separator, or divide the step"
                )

    def _last_tokens(self, whole: Example, steps: Sequence[str], completion: str) -> list[int]:
        """Return the place of the token in which each step's last character lies."""
        start = int(np.argmax(whole.trained))
        ids = whole.ids[start:].tolist()
        found = decoded(self._tokenizer, ids).find(completion)
        if found < 0:
            raise DataError(
                f"{whole.address}: the tokens of the solution do not read as its steps, so they "
                "cannot be told apart; remove white space and characters that the chat template "
                "or the tokenizer changes"
            )
        ends = []
        for number, step in enumerate(steps):
            found += len(step)
            read = found
            ends.append(
                start
                + bisect.bisect_left(
                    range(len(ids)),
                    read,
                    key=lambda last: len(decoded(self._tokenizer, ids[: last + 1])),
                )
            )
            found += len(self._separator)
            if number and ends[-1] == ends[-2]:
                raise DataError(
                    f"{whole.address}: steps {number - 1} and {number} end in one token, so they "
                    "cannot have a label each; join them to one step"
                )
        return ends


def judgements_of_steps(examples: Sequence[Example]) -> list[str]:
    """Return how right the steps are. Example: ``["steps: 1, 0.5, 0"]``."""
    return [f"steps: {', '.join(f'{value:g}' for value in each.labels)}" for each in examples]
