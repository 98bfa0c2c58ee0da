"""Windows of further pre-training: by hand, and that nothing is lost or learned twice."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlpost.data.example import Example
from rlpost.stages.supervised.windows import windows

BOS, EOS = 1, 2


def document(*ids, row=0):
    trained = np.ones(len(ids), np.bool_)
    trained[0] = False
    return Example(
        ids=np.array(ids, np.int32), trained=trained, address=f"books:{row}", uid=f"b:0:{row}"
    )


def seen(found):
    return [(each.ids.tolist(), each.trained.astype(int).tolist()) for each in found]


def test_by_hand_without_a_beginning_of_sequence_token():
    documents = [document(5, 6, EOS), document(7, 8, 9, EOS, row=1)]
    assert seen(windows(documents, size=5, bos=None)) == [
        ([5, 6, EOS, 7, 8], [0, 1, 1, 1, 1]),
        ([8, 9, EOS], [0, 1, 1]),
    ]


def test_by_hand_with_one():
    documents = [document(BOS, 6, EOS), document(BOS, 8, EOS)]
    assert seen(windows(documents, size=4, bos=BOS)) == [
        ([BOS, 6, EOS, BOS], [0, 1, 1, 0]),
        ([BOS, 8, EOS], [0, 1, 1]),
    ]


def test_a_window_names_the_document_that_it_begins_in():
    found = windows([document(5, 6, EOS), document(7, 8, 9, EOS, row=1)], size=3, bos=None)
    assert [each.address for each in found] == ["books:0", "books:0", "books:1"]
    assert len({each.uid for each in found}) == len(found)


lengths = st.lists(st.integers(2, 20), min_size=1, max_size=6)


@given(lengths=lengths, size=st.integers(2, 30), has_bos=st.booleans())
def test_every_token_is_learned_once_from_the_one_before_it(lengths, size, has_bos):
    numbers = iter(range(10, 1000))
    documents = []
    for row, length in enumerate(lengths):
        ids = [next(numbers) for _ in range(length - 1)] + [EOS]
        documents.append(document(*([BOS] if has_bos else []), *ids, row=row))
    stream = [int(token) for each in documents for token in each.ids]
    learned = []
    for each in windows(documents, size=size, bos=BOS if has_bos else None):
        assert len(each) <= size
        ids = each.ids.tolist()
        learned += [(ids[i - 1], ids[i]) for i in range(1, len(ids)) if each.trained[i]]
    pairs = list(itertools.pairwise(stream))
    assert learned == [(before, token) for before, token in pairs if token != BOS]
