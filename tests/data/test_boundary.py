"""Whatever a reader raises becomes one paragraph with an address."""

import pytest

from rlpost.data.boundary import attempt, refusal
from rlpost.errors import DataError, UserError


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (KeyError("x"), "KeyError: 'x'"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (ValueError("half \ud800"), "ValueError: half ?"),
        (ValueError("a" * 1000), f"ValueError: {'a' * 300}..."),
    ],
)
def test_any_exception_has_its_words(error: Exception, said: str) -> None:
    found = attempt(
        lambda: fail(error), address="t.jsonl:7", problem="cannot be read", way_out="mend it"
    )
    assert isinstance(found, DataError)
    assert str(found) == f"t.jsonl:7: cannot be read: {said}; mend it"
    assert found.__cause__ is error


def test_what_has_its_words_passes() -> None:
    with pytest.raises(UserError, match=r"^already said$"), refusal("a", "b", way_out="c"):
        raise UserError("already said")
    with pytest.raises(KeyboardInterrupt), refusal("a", "b", way_out="c"):
        raise KeyboardInterrupt
    assert attempt(lambda: 3, address="a", problem="b", way_out="c") == 3
