"""Checks every encoded conversation before it may be trained on.

Owns the rules that hold for the tokens and the mask of every row. Refuses to own how they were
made. Invariant: a mask that is empty, shifted, all ones, or without its end-of-turn token never
passes, whatever made it.

T: tokens of the sequence.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rlpost.data.conversation.stops import Stops
from rlpost.errors import DataError

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def check_answers(
    ids: Ids,
    trained: Mask,
    *,
    prompts: Sequence[Ids],
    stops: Stops,
    narrowed: bool,
    address: str,
) -> None:
    """Check that a mask chooses answers, from where generation begins to where it stops.

    Args:
        ids: (T,) tokens of one sequence.
        trained: (T,) its mask.
        prompts: for each answer the tokens that generation begins with.
        stops: the tokens at which generation stops.
        narrowed: whether the template's own marks may leave out parts of an answer.
        address: of the row, for errors.

    Raises:
        DataError: names the first rule that is broken.
    """
    _require_some(trained, address)
    allowed = np.zeros_like(trained)
    for prompt in prompts:
        start = len(prompt)
        if not np.array_equal(ids[:start], prompt):
            raise DataError(
                f"{address}: the tokens in front of an answer are not those that generation "
                "begins with; use a model whose template and tokenizer keep them"
            )
        end = stops.first(ids.tolist(), start=start)
        if end is None or not trained[end]:
            raise DataError(
                f"{address}: an answer's end-of-turn token ({stops}) is not trained, so the model "
                "would not learn to stop; repair the chat template"
            )
        if not narrowed and not trained[start : end + 1].all():
            raise DataError(
                f"{address}: a part of an answer is not trained, from its first token at {start} "
                f"to its end-of-turn token at {end}"
            )
        allowed[start : end + 1] = True
    outside = np.flatnonzero(trained & ~allowed)
    if len(outside):
        raise DataError(
            f"{address}: token {outside[0]} is trained, but belongs to no answer; the mask is "
            "shifted or too wide"
        )


def check_bos(ids: Ids, *, bos: int | None, stops: Stops, address: str) -> None:
    """Check that a sequence has at most one beginning-of-sequence token in a row, at its start.

    A template may write one before each turn, as Llama-2's does, if it begins with one. Whether
    there is any is the template's decision, because generation begins with the same tokens.

    Raises:
        DataError: it starts with two, or first has one later on.
    """
    if bos is None:
        return
    places = np.flatnonzero(ids == bos)
    if np.any(np.diff(places) == 1):
        raise DataError(
            f"{address}: two beginning-of-sequence tokens follow each other; remove one of them "
            "from the chat template or from the text"
        )
    if len(places) and places[0] != 0 and bos not in stops.ids:
        raise DataError(
            f"{address}: the beginning-of-sequence token first occurs as token {places[0]}; remove "
            "it from the text, or let the chat template begin with it"
        )


def _require_some(trained: Mask, address: str) -> None:
    if not trained.any():
        raise DataError(f"{address}: no token of the row is trained; leave the row out")
