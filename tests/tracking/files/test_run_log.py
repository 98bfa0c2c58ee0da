import logging
import sys
import warnings
from pathlib import Path

import pytest

from rlpost.errors import RunFailed, UserError
from rlpost.tracking.files.run_log import read_warnings, run_log


def test_log_and_python_warnings_go_to_the_file_only(tmp_path, capsys):
    path = tmp_path / "run.log"
    terminal = logging.StreamHandler()
    logging.getLogger().addHandler(terminal)
    try:
        with run_log(path):
            logging.getLogger("rlpost.stages.loop").info("step %d", 1)
            logging.getLogger("rlpost.weights").warning("slow push: 3 s")
            logging.getLogger("urllib3").info("chatter")
            warnings.warn("old option", UserWarning, stacklevel=1)
        assert terminal in logging.getLogger().handlers  # put back
    finally:
        logging.getLogger().removeHandler(terminal)
    text = path.read_text()
    assert "INFO rlpost.stages.loop: step 1" in text
    assert "old option" in text and "chatter" not in text
    assert capsys.readouterr().err == ""
    logging.getLogger("rlpost").warning("after the run")
    assert "after the run" not in path.read_text()


def test_warnings_are_read_back(tmp_path):
    path = tmp_path / "run.log"
    with run_log(path):
        logging.getLogger("rlpost.a").info("fine: nothing")
        logging.getLogger("rlpost.a").warning("slow: really")
        logging.getLogger("rlpost.b").error("broken\nsecond line WARNING x: y")
    found = read_warnings(path)
    assert [(level, message) for _, level, message in found] == [
        ("warning", "slow: really"),
        ("error", "broken"),
    ]
    assert read_warnings(tmp_path / "absent.log") == []


def test_what_libraries_print_goes_to_the_file(tmp_path, capsys):
    path = tmp_path / "run.log"
    with run_log(path) as terminal:
        sys.stdout.write("[WARNING] a greeting\n")
        sys.stderr.write("bar: 10%\rbar: 100%\n")
        terminal.write("ours\n")
    shown, text = capsys.readouterr(), path.read_text()
    assert (shown.out, shown.err) == ("ours\n", "")
    assert "INFO rlpost.foreign_output: [WARNING] a greeting" in text
    assert "bar: 100%" in text and "bar: 10%" not in text


@pytest.mark.parametrize(
    ("error", "traced"), [(UserError("say\ud800 it"), False), (RunFailed("no progress"), True)]
)
def test_the_last_entry_says_how_the_run_ended(tmp_path, error, traced):
    path = tmp_path / "run.log"
    with run_log(path):
        pass
    assert path.read_text().endswith("rlpost.tracking.files.run_log: the end\n")
    with pytest.raises(type(error)), run_log(path):
        raise error
    text = path.read_text()
    assert f"ERROR rlpost.tracking.files.run_log: ended by {type(error).__name__}: " in text
    assert ("Traceback" in text) == traced
    with pytest.raises(KeyboardInterrupt), run_log(path):
        raise KeyboardInterrupt
    assert path.read_text().endswith("ended by KeyboardInterrupt: \n")


def test_a_disk_that_refuses_costs_one_warning(capsys):
    heard = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger("rlpost").addHandler(listener)
    try:
        with run_log(Path("/dev/full")):
            for _ in range(3):
                logging.getLogger("rlpost.x").info("no room for this")
    finally:
        logging.getLogger("rlpost").removeHandler(listener)
    assert len(heard) == 1 and "No space left on device; the run goes on" in heard[0]
    assert capsys.readouterr().err == ""  # logging's own traceback is not shown
