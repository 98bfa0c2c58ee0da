"""What a reference says before the first step: kept in a file, asked once, never of other rows."""

import json
from io import BytesIO

import numpy as np
import pytest

from rlpost.data.example import Example
from rlpost.errors import UserError
from rlpost.stages.preference.batch import ResponsePacker
from rlpost.stages.preference.reference import LiveReference, PrecomputedReference, keys_of

PACKER = ResponsePacker(num_ranks=1, max_tokens=20, judged=False)


def row(number, *, epoch=0, table="s"):
    """A pair whose answers are ``number`` and twice that."""
    found = []
    for ids in ([1, 2, number], [1, 2, 2 * number, 2 * number]):
        trained = np.arange(len(ids)) >= 2
        uid = f"{table}:{epoch}:{number}"
        found.append(Example(ids=np.array(ids, np.int32), trained=trained, address="a", uid=uid))
    return found


class Scorer:
    """Says of a token half its number; counts what it is asked."""

    def __init__(self):
        self.asked = 0

    async def __call__(self, packed):
        self.asked += sum(len(batch.number_U) for mine in packed.batches for batch in mine)
        return [
            [batch.target_R.astype(np.float32) / 2 for batch in mine] for mine in packed.batches
        ]


async def complete(path, rows, scorer, *, identity="x"):
    reference = PrecomputedReference(path=path, identity={"rows": identity})
    await reference.complete(rows, score=scorer, packer=PACKER, progress=lambda what: None)
    return reference


async def said(reference, *rows):
    flat = [each for row in rows for each in row]
    found = await reference.logprobs(PACKER.to_score(flat), flat)
    return {place: values.tolist() for place, values in found.items()}


def test_a_completion_is_found_by_its_row_whatever_the_epoch():
    assert keys_of([*row(7, epoch=3), *row(8)]) == [("s", 7, 0), ("s", 7, 1), ("s", 8, 0),
                                                    ("s", 8, 1)]  # fmt: skip
    assert keys_of([*row(7), *row(7, epoch=1)])[2] == ("s", 7, 0)


async def test_what_was_computed_is_not_asked_again(tmp_path):
    path, scorer = tmp_path / "reference.npz", Scorer()
    rows = [row(number) for number in range(3, 9)]
    first = await complete(path, rows, scorer)
    assert scorer.asked == 6
    expected = {0: [2.0], 1: [4.0, 4.0], 2: [1.5], 3: [3.0, 3.0]}
    assert await said(first, row(4, epoch=2), row(3)) == expected
    again = await complete(path, rows[::-1], scorer)
    assert scorer.asked == 6
    assert await said(again, row(4, epoch=2), row(3)) == expected
    live = LiveReference(score=scorer)
    assert await said(live, row(4), row(3)) == expected


async def test_a_longer_run_asks_for_the_rows_that_it_lacks(tmp_path):
    path, scorer = tmp_path / "reference.npz", Scorer()
    await complete(path, [row(3), row(4)], scorer)
    longer = await complete(path, [row(3), row(4), row(5), row(4, table="held/s")], scorer)
    assert scorer.asked == 4
    assert await said(longer, row(5), row(4, table="held/s")) == {
        0: [2.5], 1: [5.0, 5.0], 2: [2.0], 3: [4.0, 4.0],
    }  # fmt: skip


async def test_a_killed_computation_goes_on_where_it_was(tmp_path):
    path, scorer = tmp_path / "reference.npz", Scorer()
    rows = [row(number) for number in range(3, 9)]

    async def dying(packed):
        if scorer.asked == 4:
            raise KeyboardInterrupt
        return await scorer(packed)

    reference = PrecomputedReference(path=path, identity={"rows": "x"}, tokens_per_call=1)
    with pytest.raises(KeyboardInterrupt):
        await reference.complete(rows, score=dying, packer=PACKER, progress=lambda what: None)
    mended = await complete(path, rows, scorer)
    assert scorer.asked == 6  # 1, 2 and 4 rows were written
    assert await said(mended, row(3), row(8)) == {
        0: [1.5], 1: [3.0, 3.0], 2: [4.0], 3: [8.0, 8.0],
    }  # fmt: skip


@pytest.mark.parametrize("harm", ["cut", "empty", "other rows", "text", "array"])
async def test_a_file_that_cannot_be_trusted_is_computed_again(tmp_path, harm):
    path, scorer = tmp_path / "reference.npz", Scorer()
    await complete(path, [row(3)], scorer)
    whole = path.read_bytes()
    if harm != "other rows":
        array = BytesIO()
        np.save(array, np.zeros(3))
        harms = {"cut": whole[:-40], "empty": b"", "text": b"{}", "array": array.getvalue()}
        path.write_bytes(harms[harm])
    identity = "y" if harm == "other rows" else "x"
    mended = await complete(path, [row(3)], scorer, identity=identity)
    assert scorer.asked == 2 and await said(mended, row(3)) == {0: [1.5], 1: [3.0, 3.0]}
    with np.load(path) as stored:
        assert json.loads(str(stored["identity"])) == {"rows": identity}
    assert [each.name for each in tmp_path.iterdir()] == ["reference.npz"]


async def test_a_run_that_goes_on_keeps_the_reference_that_it_began_with(tmp_path):
    path, scorer = tmp_path / "reference.npz", Scorer()

    async def compare(weights, *, continues):
        identity = {"rows": "x", "weights": {"model": weights}}
        reference = PrecomputedReference(path=path, identity=identity, continues=continues)
        asked = scorer.asked
        await reference.complete([row(3)], score=scorer, packer=PACKER, progress=lambda what: None)
        return scorer.asked - asked

    assert await compare("a", continues=False) == 1
    assert await compare("a", continues=True) == 0
    with pytest.raises(UserError, match="other weights than those of the reference now"):
        await compare("b", continues=True)
    assert await compare("b", continues=False) == 1  # a run that begins computes them anew
