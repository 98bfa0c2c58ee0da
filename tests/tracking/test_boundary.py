import logging

import pytest

from rlpost.tracking.boundary import attempt


def test_a_failure_is_one_warning(caplog):
    def fail():
        raise ValueError("bad key")

    with caplog.at_level(logging.WARNING):
        assert attempt("the W&B log of step 3", fail) is None
    assert [record.getMessage() for record in caplog.records] == [
        "the W&B log of step 3 failed: ValueError: bad key; the run goes on"
    ]


def test_success_is_silent(caplog):
    assert attempt("it", lambda: 7) == 7
    assert not caplog.records


def test_an_interrupt_is_not_swallowed():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("it", interrupt)
