"""What libraries print becomes log records, however long they keep the stream."""

import logging
import subprocess
import sys

import pytest
from tqdm.auto import tqdm

from rlpost.foreign_output import logged_output

LOGGER = "rlpost.foreign_output"


def test_prints_bars_and_handlers_are_logged_and_not_shown(capsys, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    with logged_output() as terminal:
        sys.stdout.write("a greeting\nof two lines\n\n")
        sys.stderr.write("an error\n")
        for _ in tqdm(range(3), desc="converting", mininterval=0):
            pass
        handler = logging.StreamHandler(sys.stdout)
        terminal.write("ours\n")
    foreign = logging.Logger("a library")
    foreign.addHandler(handler)
    foreign.warning("kept the stream")
    sys.stdout.write("afterwards\n")
    shown = capsys.readouterr()
    assert shown.out == "ours\nafterwards\n" and shown.err == ""
    said = caplog.messages
    assert said[:3] == ["a greeting", "of two lines", "an error"]
    assert len(said) == 5 and "3/3" in said[3] and "0/3" not in said[3]
    assert said[4] == "kept the stream"


def test_a_library_that_was_imported_before_is_logged_too(capsys, caplog):
    from transformers.utils import logging as transformers_logging

    caplog.set_level(logging.INFO, LOGGER)
    logger = transformers_logging.get_logger("transformers.a_part")  # makes the library's handler
    handlers = logging.getLogger("transformers").handlers
    (handler,) = [each for each in handlers if type(each) is logging.StreamHandler]
    before, handler.stream = handler.stream, sys.stderr
    try:
        with logged_output():
            logger.warning("a report of many lines")
        logger.warning("afterwards")
    finally:
        handler.stream = before
    shown = capsys.readouterr().err
    assert "afterwards" in shown and "report" not in shown
    assert any("a report of many lines" in each for each in caplog.messages)


def test_a_handler_that_writes_to_the_stream_it_logs_for_ends(capsys):
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    with logged_output():
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        try:
            sys.stdout.write("once\n")
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
    assert capsys.readouterr().err == ""


def test_the_streams_come_back_after_an_error(capsys):
    with pytest.raises(ZeroDivisionError), logged_output():
        sys.stdout.write(1 / 0)
    sys.stdout.write("seen\n")
    assert capsys.readouterr().out == "seen\n"


def test_a_line_without_an_end_is_bounded(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    with logged_output():
        for _ in range(100):
            sys.stdout.write("x" * 1000)
        sys.stdout.write("\n")
    assert len(caplog.messages[-1]) == 2000


def test_bitsandbytes_is_imported_in_silence_without_a_gpu():
    code = (
        "from rlpost.foreign_output import quiet_bitsandbytes; quiet_bitsandbytes(); "
        "import bitsandbytes.optim"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
