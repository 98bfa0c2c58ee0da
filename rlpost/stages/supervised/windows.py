"""Documents one after another, cut into windows: what further pre-training learns.

Owns the cut. Refuses to own the tokens of a document (its encoder). Invariants: every token of
every document is learned exactly once, except the first of all and those that their document does
not train; nothing is dropped and nothing is padded.

A window's tokens attend to all before them in the window, across the ends of documents: a document
that begins in a window sees the end of the one before it, behind an end-of-sequence token. It does
not see what came before the window.
"""

from collections.abc import Sequence

import numpy as np

from rlpost.data.example import Example


def windows(documents: Sequence[Example], *, size: int, bos: int | None) -> list[Example]:
    """Cut documents into windows of ``size`` tokens, the last one maybe shorter.

    A window begins with the last token of the window before it, from which its second is predicted;
    so it learns ``size - 1`` tokens. The first token of a document is learned where another
    document ends before it, unless it is the beginning-of-sequence token.

    Args:
        documents: in the order in which they follow each other, each with its end-of-sequence
            token.
        size: tokens of a window, at least 2.
        bos: the token that begins each document, if the tokenizer writes one.
    """
    assert documents and size >= 2
    ids_T = np.concatenate([each.ids for each in documents])
    trained_T = np.concatenate([each.trained for each in documents])
    starts = np.cumsum([0, *(len(each) for each in documents[:-1])])
    trained_T[starts[1:]] = ids_T[starts[1:]] != bos
    found = []
    for start in range(0, len(ids_T) - 1, size - 1):
        ids, trained = ids_T[start : start + size], trained_T[start : start + size].copy()
        trained[0] = False
        if trained.any():
            first = documents[int(np.searchsorted(starts, start, side="right")) - 1]
            uid = f"{first.uid}+{start}"
            found.append(Example(ids=ids, trained=trained, address=first.address, uid=uid))
    return found
